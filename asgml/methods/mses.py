"""MSES: modality-specific early stopping."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from asgml.methods.base import SAVED, Epoch, Method
from callbacks.ranges import Count, NonNegative


@dataclass
class MSES(Method):
    """MSES (Fujimori et al., "Modality-Specific Learning Rate Control for Multimodal Classification", ACPR 2019).

    `L = L_fusion + sum_m L_m`. Modality m overfits when the validation loss of its own classifier has not fallen below
    its lowest by more than `min_delta` for `patience` epochs in a row; from then on encoder m has learning rate 0: it
    stands still (and runs without a graph), while the others, the fusion and all heads go on. Each modality for
    itself, any number of them; all of them may end stopped. A modality without validation rows is never stopped.
    `patience` is a choice of this suite.

    Attributes:
        patience: number of epochs without a new lowest loss after which an encoder stops.
        min_delta: difference by which a loss must be lower to count.
    """

    for_regression: ClassVar[bool] = True
    trains_heads: ClassVar[bool] = True
    patience: Count = 5
    min_delta: NonNegative = 0.0
    _lowest: dict[str, float] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _waited: dict[str, int] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _stopped: list[str] = field(default_factory=list, init=False, repr=False, metadata=SAVED)

    def setup(self) -> None:
        self.require("patience", self.patience >= 1, "1 or more")
        self.require("min_delta", self.min_delta >= 0, "0 or more")

    def on_epoch(self, epoch: Epoch) -> None:
        for m in self._modalities:
            value = epoch.metrics.get(f"val/loss/{m}")
            if value is None or m in self._stopped:
                continue
            if value < self._lowest.get(m, math.inf) - self.min_delta:
                self._lowest[m], self._waited[m] = value, 0
                continue
            self._waited[m] = self._waited.get(m, 0) + 1
            if self._waited[m] >= self.patience:
                self._stopped = [*self._stopped, m]

    def idle(self, t: int, epoch: int) -> set[str]:
        return set(self._stopped)
