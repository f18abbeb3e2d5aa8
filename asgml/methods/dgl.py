"""DGL: disentangled gradient learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from asgml.methods.base import Method, Step
from asgml.methods.shared.losses import task_loss
from callbacks.ranges import Positive


@dataclass
class DGL(Method):
    """DGL (Wei et al., "Boosting Multimodal Learning via Disentangled Gradient Learning", ICCV 2025).

    z_m = fusion(f_m, all others zero) are the logits of the fusion from modality m alone:

        L = CE(fusion(stop(f_1), …, stop(f_N)), y) + alpha * sum_m CE(z_m, y)

    The fused loss moves the fusion alone, its gradient does not reach the encoders; the unimodal losses move the
    encoders alone, their gradient does not reach the fusion's weights. Any fusion and any number of modalities;
    CE(z_m, y) is a mean over the samples that have m.

    Attributes:
        alpha: weight of the unimodal losses. The authors' scripts have 4 and 5 on CREMA-D (4 is their code's default),
            2 and 3 on Kinetics-Sounds, of which they note the higher accuracy for 3 (75.1 and 76.3 against 74.8 %),
            and 2 on VGGSound; no published value for other sets.
    """

    for_regression: ClassVar[bool] = True
    alpha: Positive = 4.0

    def setup(self) -> None:
        self.require("alpha", self.alpha > 0, "above 0: nothing else moves the encoders")

    def on_features(self, step: Step, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {m: f.detach() for m, f in features.items()}

    def loss(self, step: Step) -> dict[str, Tensor]:
        alone = {m: step.fuse({m: step.features[m]}, frozen=True) for m in step.here}
        return {m: self.alpha * task_loss(step, z, m) for m, z in alone.items()}
