"""Unimodal training: one modality alone, the ceiling that joint training is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asgml.methods.base import Method, Step
from asgml.methods.shared.presence import zeroed


@dataclass
class Unimodal(Method):
    """Unimodal training, `L = L_m` of one modality; the other encoders do not run, and the prediction is the head's.

    A sample without this modality is predicted from no information (uniform probabilities, in a regression the value
    that the head has for a feature of zeros); it is not left out.

    Attributes:
        modality: the modality that is trained.
    """

    for_regression: ClassVar[bool] = True
    trains_heads: ClassVar[bool] = True
    replaces_fusion_loss: ClassVar[bool] = True
    modality: str = ""

    def setup(self) -> None:
        names = self._modalities
        self.require("modality", self.modality in names, f"one of {', '.join(names)}", names[0])

    def active(self, modalities: list[str]) -> list[str]:
        return [self.modality]

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {m: loss for m, loss in step.losses.items() if m == self.modality}

    def fuse_at_test(self, step: Step) -> Tensor:
        if step.y.is_floating_point():  # a regression; absent features are zeros
            return step.unimodal[self.modality]
        return torch.softmax(zeroed(step, step.unimodal[self.modality], self.modality), dim=1)
