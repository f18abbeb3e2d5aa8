"""G-Blending: losses weighted by generalisation gained over overfitting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from asgml.methods.base import SAVED, Epoch, Method, Step, Survey
from asgml.methods.shared.losses import FUSED
from callbacks.ranges import Count

LEAST_GROWTH = 1e-3  # of the gap between validation and training loss


def survey_losses(survey: Survey) -> dict[str, float]:
    """Return the mean loss of the fused prediction and of every head over its modality's rows."""
    out = {FUSED: float(survey.criterion(survey.logits(list(survey.features)), survey.y).mean())}
    for m, z in survey.unimodal.items():
        here = survey.present[m]
        if bool(here.any()):
            out[m] = float(survey.criterion(z[here], survey.y[here]).mean())
    return out


@dataclass
class GBlending(Method):
    """G-Blending, online (Wang et al., "What Makes Training Multi-Modal Classification Networks Hard?", CVPR 2020).

    `L = sum_k w_k L_k` over the fused loss and every unimodal loss. Before every super-epoch of `super_epoch` epochs,
    with V_k and T_k the validation and training loss of k then, and ' marking the ones before the last super-epoch:

        G_k = V_k' - V_k,    O_k = (V_k - T_k) - (V_k' - T_k'),    w_k = (G_k / O_k^2) / sum_j (G_j / O_j^2)

    G below 0 counts as 0, |O| below 0.001 as 0.001, and where nothing has generalised the weights are equal, as in the
    first super-epoch. The weights add up to 1. V and T are measured in evaluation mode over the whole splits, once per
    super-epoch. The paper trains a copy of every branch alone through each super-epoch to measure G and O in advance;
    here they are those of the super-epoch that has passed, at no other cost. Any number of modalities; rows without m
    do not count in L_m.

    Attributes:
        super_epoch: number of epochs between two estimates, and first epoch with weights of its own; 10 published
            (offline: one estimate, half the run).
    """

    for_regression: ClassVar[bool] = True
    trains_heads: ClassVar[bool] = True
    replaces_fusion_loss: ClassVar[bool] = True
    super_epoch: Count = 10
    _weights: dict[str, float] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _train: dict[str, float] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _val: dict[str, float] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)

    def setup(self) -> None:
        self.require("super_epoch", self.super_epoch >= 1, "1 or more")
        tasks = [FUSED, *self._modalities]
        self._weights = dict.fromkeys(tasks, 1 / len(tasks))

    def acts_from(self) -> tuple[str, int]:
        return "super_epoch", self.super_epoch

    def on_epoch(self, epoch: Epoch) -> None:
        if epoch.number % self.super_epoch:
            return
        train, val = survey_losses(epoch.survey("train")), survey_losses(epoch.survey("val"))
        if self._val:
            self._weights = self.blend(train, val)
        self._train, self._val = train, val

    def blend(self, train: dict[str, float], val: dict[str, float]) -> dict[str, float]:
        """Return w_k; a loss that is not known at both ends gets none."""
        value = {}
        for k in self._weights:
            if k in train and k in val and k in self._train and k in self._val:
                growth = (val[k] - train[k]) - (self._val[k] - self._train[k])
                value[k] = max(self._val[k] - val[k], 0.0) / max(abs(growth), LEAST_GROWTH) ** 2
        total = sum(value.values())
        if total == 0:
            return dict.fromkeys(self._weights, 1 / len(self._weights))
        return {k: value.get(k, 0.0) / total for k in self._weights}

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {k: self._weights[k] * step.losses[k] for k in (FUSED, *step.here)}
