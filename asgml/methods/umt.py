"""UMT: unimodal teachers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from asgml.methods.base import Method, Step
from asgml.methods.shared.checkpoints import by_modality, given_files
from callbacks.ranges import NonNegative


@dataclass
class UMT(Method):
    """Unimodal teacher (Du et al., "On Uni-Modal Feature Learning in Supervised Multi-Modal Learning", ICML 2023).

    `L = L_fusion + weight * sum_m mean((f_m - t_m)^2)`, t_m the features of a frozen encoder trained on modality m
    alone, the mean over its entries and the samples that have m. Any number of modalities.

    Attributes:
        weight: weight of the distillation; 10 published (50 on some sets).
        checkpoints: teacher of each modality, a checkpoint of a `unimodal` run; `auto` looks for the finished
            `method=unimodal` run of the same configuration and seed under the same `paths.runs`.
    """

    for_regression: ClassVar[bool] = True
    weight: NonNegative = 10.0
    checkpoints: str | dict[str, str] = "auto"

    @staticmethod
    def input_files(arguments: Mapping[str, Any]) -> dict[str, Path]:
        """Return the checkpoints that are given as paths (see `suite.runs.reads`)."""
        return given_files(arguments)

    def teachers(self, modalities: list[str]) -> dict[str, str]:
        return by_modality(self.checkpoints, modalities)

    def loss(self, step: Step) -> dict[str, Tensor]:
        taught = [m for m in step.here if isinstance(self.checkpoints, str) or m in self.checkpoints]
        terms = [
            step.mean((step.features[m] - step.teacher(m)).to(step.logits.dtype).square().mean(1), m) for m in taught
        ]
        return {"teacher": self.weight * torch.stack(terms).sum()} if terms else {}
