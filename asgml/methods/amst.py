"""AMST: modalities are trained at frequencies of their own, counted in epochs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from torch import Tensor

from asgml.methods.base import Method, Step
from asgml.methods.shared.losses import FUSED, task_loss
from callbacks.ranges import NOT_EMPTY, Count


@dataclass
class AMST(Method):
    """AMST, joint variant (Silva et al., "AMST: Alternating Multimodal Skip Training", ECML PKDD 2025).

    Modality m takes part in the epochs e (from 0) with `e mod k_m == 0`. In the others its encoder stands still and the
    fused loss is that of the modalities that take part, the skipped ones absent from the fusion. Prediction uses all.
    Any number of modalities; one at least has k = 1, so that no epoch is empty (public code passes empty epochs
    without a step). The alternating and the full variant, which add unimodal steps through a second fusion, are not
    part of this.

    Attributes:
        modality: the modality that is skipped, the one that converges first.
        factor: k of this modality; audio: 5 on CREMA-D, 2 on AVE, 4 on IEMOCAP, 6 on UR-FUNNY; text: 10 on MVSA.
        factors: k of every modality (1 where not given), in place of `modality` and `factor`.
    """

    for_regression: ClassVar[bool] = True
    replaces_fusion_loss: ClassVar[bool] = True
    modality: str = "audio"
    factor: Count = 5
    factors: Annotated[dict[str, Count], NOT_EMPTY] | None = None
    _factors: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def setup(self) -> None:
        names, first = ", ".join(self._modalities), self._modalities[0]
        if self.factors is None:
            self.require("modality", self.modality in self._modalities, f"one of {names}", first)
            key, choice, given = "factor", "1", {self.modality: self.factor}
        else:
            key, choice, given = "factors", f"{{{first}:1}}", self.factors
            self.require(key, set(given) <= set(self._modalities), f"factors of {names}", choice)
        self._factors = {m: given.get(m, 1) for m in self._modalities}
        whole = min(self._factors.values()) == 1
        self.require(key, whole, "1 or more, and 1 for some modality, so that no epoch is empty", choice)

    def idle(self, t: int, epoch: int) -> set[str]:
        return {m for m, k in self._factors.items() if epoch % k}

    def loss(self, step: Step) -> dict[str, Tensor]:
        skipped = self.idle(step.t, step.epoch)
        if not skipped:
            return {FUSED: step.losses[FUSED]}
        return {FUSED: task_loss(step, step.fuse({m: f for m, f in step.features.items() if m not in skipped}))}
