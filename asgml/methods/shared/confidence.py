"""Compares modalities by the probability that they give to the right class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from asgml.methods.base import Step


def confidence(logits: Tensor, y: Tensor) -> Tensor:
    """Return softmax(logits)[i, y_i], (B,)."""
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return torch.softmax(wide, dim=1).gather(1, y[:, None])[:, 0]


def scores(step: Step, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return p_m, the mean confidence over present rows and ranks, per modality of `logits` (B, C); no gradient."""
    with torch.no_grad():
        return {m: step.mean(confidence(z.detach(), step.y), m) for m, z in logits.items()}


def discrepancy(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return rho_m, the mean over the other modalities of p_m / p_k (one ratio for two, Peng et al. 2022, Eq. 8)."""
    return {
        m: torch.stack([p / q.clamp(min=1e-12) for k, q in scores.items() if k != m]).mean(0) for m, p in scores.items()
    }
