"""Tells which rows of a batch have a modality."""

from __future__ import annotations

import torch
from torch import Tensor

from asgml.methods.base import Step


def has(step: Step, modality: str) -> Tensor:
    """Return the mask (B,) bool of the rows with this modality."""
    mask = step.present[modality]
    return torch.ones_like(step.y, dtype=torch.bool) if mask is None else mask


def zeroed(step: Step, values: Tensor, modality: str) -> Tensor:
    """Return `values` (B, …) with zeros in the rows without this modality, whatever they held."""
    return torch.where(has(step, modality).view(-1, *[1] * (values.dim() - 1)), values, 0.0)


def sum_where(step: Step, values: Tensor, rows: Tensor) -> Tensor:
    """Add up `values` (B,) over the rows of a mask (B,) bool, over all ranks (scaled as `Step.mean` is, for DDP)."""
    size = step.total(values.new_full((), len(step.y)))
    return step.mean(torch.where(rows, values, 0.0), None) * size


def mean_where(step: Step, values: Tensor, rows: Tensor) -> Tensor:
    """Average `values` (B,) over the rows of a mask (B,) bool, over all ranks; 0 where the mask is empty."""
    share = step.mean(rows.to(values.dtype), None)
    return step.mean(torch.where(rows, values, 0.0), None) / share.clamp(min=1e-9)
