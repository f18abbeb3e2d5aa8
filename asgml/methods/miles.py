"""MILES: the learning rate of an over-used modality is lowered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from asgml.methods.base import SAVED, Epoch, Method, Step
from callbacks.ranges import NonNegative


def utilisation(fused: float, alone: dict[str, float]) -> dict[str, float]:
    """Return u_m = (fused - mean over the others of alone_k) / fused: what m adds to the others, relative to all."""
    names = list(alone)
    if fused <= 0:
        return dict.fromkeys(names, 0.0)
    return {m: (fused - sum(alone[k] for k in names if k != m) / (len(names) - 1)) / fused for m in names}


@dataclass
class MILES(Method):
    """MILES (Guerra-Manzanares and Shamout, "MILES: Modality-Informed Learning Rate Scheduler for Balancing Multimodal
    Learning", IJCNN 2025).

    `L = L_fusion + sum_m L_m`. After each epoch, with the validation accuracies M of the fused prediction and of the
    heads, for two modalities A and B:

        u_A = (M_AB - M_B) / M_AB  (conditional utilisation),  u_B alike
        |u_A - u_B| > threshold and max(u_A, u_B) > 0:  the one with the larger u learns at `reduction` times the rate
        else:  both at the full rate

    The reduction does not add up over epochs. More than two modalities: M_B becomes the mean over the others, and every
    m with u_m > 0 that is more than `threshold` above the smallest u is slowed down. Modalities without validation
    rows take no part.

    Attributes:
        threshold: difference in utilisation above which a modality is slowed down, tau of the paper.
        reduction: factor on its learning rate, mu of the paper.
    """

    min_modalities: ClassVar[int] = 2
    trains_heads: ClassVar[bool] = True
    threshold: NonNegative = 0.2
    reduction: NonNegative = 0.5
    _slowed: list[str] = field(default_factory=list, init=False, repr=False, metadata=SAVED)

    def setup(self) -> None:
        for key in ("threshold", "reduction"):
            self.require(key, getattr(self, key) >= 0, "0 or more")

    def on_epoch(self, epoch: Epoch) -> None:
        names = {m: f"val/accuracy/{m}" for m in self._modalities}
        alone = {m: epoch.metrics[name] for m, name in names.items() if name in epoch.metrics}
        self._slowed = []
        if "val/accuracy" in epoch.metrics and len(alone) > 1:
            u = utilisation(epoch.metrics["val/accuracy"], alone)
            least = min(u.values())
            self._slowed = [m for m, value in u.items() if value > 0 and value - least > self.threshold]

    def group_lr(self, step: Step) -> dict[str, float]:
        return dict.fromkeys(self._slowed, self.reduction)
