"""G2D: gradient-guided distillation, unimodal teachers that also say whose encoder moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from asgml.methods.base import Method, Step
from asgml.methods.shared.checkpoints import by_modality, given_files
from asgml.methods.shared.confidence import scores
from asgml.methods.shared.gradients import scale_feature_gradient
from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, NonNegative, Positive, Share


@dataclass
class G2D(Method):
    """G2D (Rakib and Bagavathi, "G2D: Boosting Multimodal Learning with Gradient-Guided Distillation", ICCV 2025).

    t_m and l_m are the features and logits of a frozen model of modality m alone, l the student's fused logits, T the
    temperature:

        L = L_fusion + sum_m [features * mean((f_m - t_m)^2) + logits * T^2 KL(softmax(l_m / T) || softmax(l / T))]

    with means over the samples that have m (and over the entries of a feature). Sequential modality prioritisation:
    the training begins with stages, in stage j only the encoder of the j-th weakest modality has a gradient, that of
    all losses; then all have. The order is that of the teachers' mean confidence softmax(l_m)[y] on the batch, anew in
    every step. The fusion is trained throughout.

    Published are 150 of 300 epochs for the weaker of two modalities on CREMA-D: half of the training, which is how
    `alone` gives it, since a run of another length would not come to its second part. Weights and temperature are those
    of the authors' code (1 on all sets); the paper's values beyond that, and the stages for three modalities, could not
    be established. The code handles two modalities, where the stronger one is never alone; it blocks the convolution
    kernels only, normalisation layers go on. Here the gradient is blocked at the feature, so in the whole encoder,
    which the paper's update rule says. As in the code a blocked gradient is 0: weight decay and what is left of the
    momentum still move the encoder. More than two modalities: as many stages as `alone` has entries; a modality that
    nobody in the batch has takes no place in the order.

    Attributes:
        features: weight of the feature distillation, alpha of the paper.
        logits: weight of the logit distillation, beta of the paper.
        temperature: temperature of the logit distillation.
        alone: share of the training's epochs in which the weakest modality's encoder moves alone; as a list, that of
            the weakest, the second weakest, and so on.
        checkpoints: teacher of each modality, a checkpoint of a `unimodal` run; `auto` looks for the finished
            `method=unimodal` run of the same configuration and seed under the same `paths.runs`.
    """

    min_modalities: ClassVar[int] = 2
    reads_length: ClassVar[bool] = True
    reads_teacher_logits: ClassVar[bool] = True
    features: NonNegative = 1.0
    logits: NonNegative = 1.0
    temperature: Positive = 1.0
    alone: Share | Annotated[list[Share], NOT_EMPTY] = 0.5
    checkpoints: str | dict[str, str] = "auto"

    def setup(self) -> None:
        self.require("temperature", self.temperature > 0, "above 0")
        shares, most = self.shares(), len(self._modalities)
        self.require("alone", len(shares) <= most, f"{most} shares at most, one per modality")
        self.require("alone", min(shares, default=0) >= 0 and sum(shares) <= 1, "shares from 0 on, together 1 at most")
        known = isinstance(self.checkpoints, str) or set(self.checkpoints) == set(self._modalities)
        self.require("checkpoints", known, f"a teacher for each of {', '.join(self._modalities)}")

    @staticmethod
    def input_files(arguments: Mapping[str, Any]) -> dict[str, Path]:
        """Return the checkpoints that are given as paths (see `suite.runs.reads`)."""
        return given_files(arguments)

    def teachers(self, modalities: list[str]) -> dict[str, str]:
        return by_modality(self.checkpoints, modalities)

    def shares(self) -> list[float]:
        """Return the share of the epochs of every stage."""
        return list(self.alone) if not isinstance(self.alone, float | int) else [self.alone]

    def stage(self, epoch: int, epochs: int) -> int | None:
        """Return the place in the order, from the weakest on, of the modality that moves alone; None for all."""
        if epochs < 1 and any(self.shares()):
            found, expected = "training measured in steps alone", "epochs, whose shares the stages are"
            raise UserError("trainer.max_epochs", found, expected, "trainer.max_epochs=100")
        end = 0.0
        for place, share in enumerate(self.shares()):
            end += share * epochs
            if epoch < end:
                return place
        return None

    def loss(self, step: Step) -> dict[str, Tensor]:
        taught = {m: step.teacher(m) for m in step.here}
        logits = {m: step.teacher_logits(m, f) for m, f in taught.items()}
        self._prioritise(step, logits)
        student = F.log_softmax(step.logits / self.temperature, 1)
        near, alike = [], []
        for m, f in taught.items():
            near.append(step.mean((step.features[m] - f).to(student.dtype).square().mean(1), m))
            teacher = F.log_softmax(logits[m] / self.temperature, 1)
            apart = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
            alike.append(self.temperature**2 * step.mean(apart, m))
        if not taught:
            return {}
        return {"features": self.features * torch.stack(near).sum(), "logits": self.logits * torch.stack(alike).sum()}

    def _prioritise(self, step: Step, logits: Mapping[str, Tensor]) -> None:
        """Block the gradient of all encoders but the one whose stage it is."""
        place = self.stage(step.epoch, step.epochs)
        confidence = scores(step, logits)
        step.reads.update({f"g2d/teacher/{m}": p for m, p in confidence.items()})
        if place is None or not confidence:
            return
        # stable, so that of equally confident teachers the first counts as the weaker one
        order = torch.stack(list(confidence.values())).argsort(stable=True)
        turn = order[min(place, len(order) - 1)]
        for i, m in enumerate(confidence):
            scale_feature_gradient(step, m, (turn == i).to(step.logits.dtype))
