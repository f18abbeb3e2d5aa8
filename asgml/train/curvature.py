"""Losses for measurements: of one group for `callbacks.StabilityGuard`, of all for `callbacks.BranchShare`."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from asgml.data.dataset import Batch
from asgml.model.net import FUSION
from asgml.train.forward import Forward


class HasLosses(Protocol):
    """Describes what the loss of a group is made of."""

    active: list[str]
    forward_pass: Forward
    gamma: float
    trains_heads: bool
    fusion_loss: bool


def loss_of_group(module: HasLosses, batch: Batch, group: str) -> Tensor:
    """Return the fused loss and gamma times the unimodal ones (0-d); the other encoders run without a graph.

    Args:
        module: the module.
        batch: the batch.
        group: the group of weights that a gradient is wanted for: a modality or the fusion.
    """
    forward = module.forward_pass
    left_out = {group: batch["y"]}  # stands for features that are not computed here
    with torch.no_grad():
        others = {m: f for m, f in forward.encode(batch, known=left_out)[0].items() if m != group}
    encoded = forward.encode(batch, known=others)
    step = forward(batch, plan=None, measure=False, t=0, epoch=0, epochs=-1, rank=0, encoded=encoded)
    terms = [step.losses[FUSION]] if module.fusion_loss else []
    if module.trains_heads or not module.fusion_loss:
        terms += [module.gamma * step.losses[m] for m in module.active]
    return torch.stack(terms).sum()


def fused_loss(module: HasLosses, batch: Batch) -> Tensor:
    """Return the fused loss (0-d) of a batch with a graph to every group, whatever the methods train on."""
    step = module.forward_pass(batch, plan=None, measure=False, t=0, epoch=0, epochs=-1, rank=0)
    return step.losses[FUSION]
