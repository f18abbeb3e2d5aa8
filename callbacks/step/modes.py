"""Evaluation mode for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode without gradients; afterwards every submodule's own mode and the RNG are as before."""
    modes = [(m, m.training) for m in module.modules()]
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for m, mode in modes:
            m.training = mode
