"""UME: an ensemble of unimodal models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asgml.methods.base import Method, Step
from callbacks.errors import UserError


@dataclass
class UME(Method):
    """Uni-modal ensemble (Du et al., "On Uni-Modal Feature Learning in Supervised Multi-Modal Learning", ICML 2023).

    `L = sum_m L_m` without a fused loss: encoder and head of every modality learn by themselves, as in runs of their
    own. Prediction: the weighted mean of their probabilities, `sum_m w_m softmax(z_m) / sum_m w_m`, over the modalities
    that the sample has. Any number of modalities. The fusion is not trained.

    Attributes:
        weights: w_m by modality; null for equal ones.
    """

    trains_heads: ClassVar[bool] = True
    replaces_fusion_loss: ClassVar[bool] = True
    weights: dict[str, float] | None = None

    def setup(self, modalities: list[str], classes: int, seed: int) -> None:
        given = self.weights
        if given is not None and (set(given) != set(modalities) or min(given.values()) <= 0):
            expected = f"a weight above 0 for each of {modalities}"
            raise UserError("methods.ume.weights", str(given), expected, "null for equal weights")

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {m: step.losses[m] for m in step.here}

    def fuse_at_test(self, step: Step) -> Tensor:
        total, norm = torch.zeros_like(step.logits), torch.zeros_like(step.logits[:, :1])
        for m, z in step.unimodal.items():
            w = torch.full_like(norm, 1.0 if self.weights is None else self.weights[m])
            mask = step.present[m]
            w = w if mask is None else torch.where(mask[:, None], w, 0.0)
            total, norm = total + w * torch.softmax(z, 1), norm + w
        return total / norm
