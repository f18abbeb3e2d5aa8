"""Uniform: the fused loss plus every unimodal loss with one weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from asgml.methods.base import Method, Step
from callbacks.ranges import NonNegative


@dataclass
class Uniform(Method):
    """Uniform weights: `L = L_fusion + gamma * sum_m L_m`, L_m the cross-entropy of modality m's own head over the
    samples that have it.

    This is ASGML's loss (specification A1.5); with `gamma` 4 the unimodal part is about 89 % of the loss of two
    modalities at initialisation.

    Attributes:
        gamma: weight of the unimodal losses.
    """

    for_regression: ClassVar[bool] = True
    trains_heads: ClassVar[bool] = True
    gamma: NonNegative = 1.0

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {m: self.gamma * step.losses[m] for m in step.here}
