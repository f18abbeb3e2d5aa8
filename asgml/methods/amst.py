"""AMST: modalities are trained at frequencies of their own, counted in epochs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from asgml.methods.base import Method, Step
from callbacks.errors import UserError


@dataclass
class AMST(Method):
    """AMST, joint variant (Silva et al., "AMST: Alternating Multimodal Skip Training", ECML PKDD 2025).

    Modality m takes part in the epochs e (from 0) with `e mod k_m == 0`. In the others its encoder stands still and the
    fused loss is that of the modalities that take part, the skipped ones absent from the fusion. Prediction uses all.
    Any number of modalities; one at least has k = 1, so that no epoch is empty (public code passes empty epochs
    without a step). The alternating and the full variant, which add unimodal steps through a second fusion, are not
    part of this.

    Attributes:
        modality: the one that is skipped: that which converges first.
        factor: its k. Audio: 5 on CREMA-D, 2 on AVE, 4 on IEMOCAP, 6 on UR-FUNNY; text: 10 on MVSA.
        factors: k of every modality (1 where not given), in place of `modality` and `factor`.
    """

    replaces_fusion_loss: ClassVar[bool] = True
    modality: str = "audio"
    factor: int = 5
    factors: dict[str, int] | None = None
    _factors: dict[str, int] = field(default_factory=dict, repr=False)

    def setup(self, modalities: list[str], classes: int, seed: int) -> None:
        given = {self.modality: self.factor} if self.factors is None else dict(self.factors)
        where = "methods.amst" if self.factors is None else "methods.amst.factors"
        names = ", ".join(modalities)
        for m, k in given.items():
            if m not in modalities:
                raise UserError(where, f"modality {m}", f"one of {names}", "name the one that converges first")
            if k < 1:
                raise UserError(where, f"factor {k} of {m}", "1 or more", "1: in every epoch, 5: in every fifth")
        self._factors = {m: given.get(m, 1) for m in modalities}
        if min(self._factors.values()) > 1:
            raise UserError(
                where, f"factors {self._factors}", "a modality with factor 1", "else some epochs train nothing"
            )

    def idle(self, t: int, epoch: int) -> set[str]:
        return {m for m, k in self._factors.items() if epoch % k}

    def loss(self, step: Step) -> dict[str, Tensor]:
        skipped = self.idle(step.t, step.epoch)
        if not skipped:
            return {"fusion": step.losses["fusion"]}
        logits = step.fuse({m: f for m, f in step.features.items() if m not in skipped})
        return {"fusion": step.mean(F.cross_entropy(logits, step.y, reduction="none"), None)}
