"""Evaluation mode for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a module to evaluation mode without gradients for the block.

    Afterwards the mode of every submodule and the global generators of its devices are as they were before.
    """
    modes = [(m, m.training) for m in module.modules()]
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for m, mode in modes:
            m.training = mode
