"""Computes the losses and entropies of a step."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from asgml.methods.base import Step

FUSED = "fusion"  # the fused loss among `Step.losses`


def cross_entropy(step: Step, logits: Tensor, modality: str | None = None) -> Tensor:
    """Average the cross-entropy of logits (B, C) over the rows with this modality (None: all), over all ranks."""
    return step.mean(F.cross_entropy(logits, step.y, reduction="none"), modality)


def task_loss(step: Step, logits: Tensor, modality: str | None = None) -> Tensor:
    """Average the run's loss of logits (B, C) over the rows with this modality (None: all), over all ranks."""
    return step.mean(step.criterion(logits, step.y), modality)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax(logits), (B,)."""
    return -(F.softmax(logits, 1) * F.log_softmax(logits, 1)).sum(1)
