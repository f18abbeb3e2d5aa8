"""UME: an ensemble of unimodal models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from asgml.methods.base import Method, Step
from asgml.methods.shared.presence import has
from callbacks.ranges import NOT_EMPTY, Positive


@dataclass
class UME(Method):
    """Uni-modal ensemble (Du et al., "On Uni-Modal Feature Learning in Supervised Multi-Modal Learning", ICML 2023).

    `L = sum_m L_m` without a fused loss: encoder and head of every modality learn by themselves, as in runs of their
    own. Prediction: the weighted mean of their probabilities, `sum_m w_m softmax(z_m) / sum_m w_m`, over the modalities
    that the sample has. Any number of modalities. The fusion is not trained.

    Attributes:
        weights: w_m of every modality; null for equal ones.
    """

    trains_heads: ClassVar[bool] = True
    replaces_fusion_loss: ClassVar[bool] = True
    weights: Annotated[dict[str, Positive], NOT_EMPTY] | None = None

    def setup(self) -> None:
        known = self.weights is None or (set(self.weights) == set(self._modalities) and min(self.weights.values()) > 0)
        self.require("weights", known, f"a weight above 0 for each of {', '.join(self._modalities)}", "null")

    def fuse_at_test(self, step: Step) -> Tensor:
        total, norm = torch.zeros_like(step.logits), torch.zeros_like(step.logits[:, :1])
        for m, z in step.unimodal.items():
            w = has(step, m)[:, None].to(norm.dtype) * (1.0 if self.weights is None else self.weights[m])
            total, norm = total + w * torch.softmax(z, 1), norm + w
        return total / norm
