"""Unimodal training: one modality alone, the ceiling that joint training is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asgml.methods.base import Method, Step
from callbacks.errors import UserError


@dataclass
class Unimodal(Method):
    """`L = L_m` of one modality; the other encoders do not run, and the prediction is the head's.

    A sample without this modality is predicted from no information (uniform probabilities); it is not left out.

    Attributes:
        modality: which one.
    """

    trains_heads: ClassVar[bool] = True
    replaces_fusion_loss: ClassVar[bool] = True
    modality: str = ""

    def setup(self, modalities: list[str], classes: int, seed: int) -> None:
        if self.modality not in modalities:
            raise UserError(
                "methods.unimodal.modality",
                f"'{self.modality}'",
                f"one of {modalities}",
                f"methods.unimodal.modality={modalities[0]}",
            )

    def active(self, modalities: list[str]) -> list[str]:
        return [self.modality]

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {m: loss for m, loss in step.losses.items() if m == self.modality}

    def fuse_at_test(self, step: Step) -> Tensor:
        logits = step.unimodal[self.modality]
        mask = step.present[self.modality]
        if mask is not None:
            logits = torch.where(mask[:, None], logits, torch.zeros_like(logits))
        return torch.softmax(logits, dim=1)
