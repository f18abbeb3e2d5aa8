"""MSLR: modality-specific learning rates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from asgml.methods.base import SAVED, Epoch, Method, Step
from callbacks.ranges import NOT_EMPTY, NonNegative, Several


@dataclass
class MSLR(Method):
    """MSLR (Yao and Mihalcea, "Modality-specific Learning Rates for Effective Multimodal Additive Late-fusion",
    Findings of ACL 2022).

    The fused loss alone, and a learning rate per encoder: that of the optimiser (or of `group_lr`) times f_m, which
    begins at `factors` (each modality's best unimodal rate, over the optimiser's) and

        keep:     stays
        dynamic:  after every `history` epochs,  f_m *= v_m / (mean of the last `history` v_m),

    v_m the validation accuracy of modality m alone (its head) in an epoch, the last one in the numerator. The paper's
    third strategy (smooth) and its start from fine-tuned unimodal models are not part of this. Any number of
    modalities; one without validation rows keeps its factor.

    Attributes:
        strategy: course of the factors, `dynamic` or `keep`.
        history: number of epochs before the first change, between two changes, and in the mean.
        factors: f_m at the beginning, 1 where not given.
    """

    strategy: str = "dynamic"
    history: Several = 5
    factors: Annotated[dict[str, NonNegative], NOT_EMPTY] | None = None
    _rates: dict[str, float] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _seen: dict[str, list[float]] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)

    def setup(self) -> None:
        given, choice = self.factors or {}, f"{{{self._modalities[0]}:0.1}}"
        self.require("strategy", self.strategy in ("dynamic", "keep"), "dynamic or keep")
        self.require("history", self.history >= 2, "2 or more: with 1 nothing ever changes")
        known = set(given) <= set(self._modalities) and min(given.values(), default=0) >= 0
        self.require("factors", known, f"0 or more, for {', '.join(self._modalities)}", choice)
        self.require("factors", bool(given) or self.strategy == "dynamic", "factors to keep", choice)
        self._rates = {m: given.get(m, 1.0) for m in self._modalities}

    def acts_from(self) -> tuple[str, int]:
        return ("history", self.history) if self.strategy == "dynamic" else ("", 0)

    def on_epoch(self, epoch: Epoch) -> None:
        if self.strategy == "keep":
            return
        for m in self._rates:
            value = epoch.metrics.get(f"val/accuracy/{m}")
            if value is None:
                continue
            self._seen[m] = [*self._seen.get(m, []), value]
            if len(self._seen[m]) == self.history:
                mean = sum(self._seen[m]) / self.history
                self._rates[m] *= value / mean if mean > 0 else 1.0
                self._seen[m] = []

    def group_lr(self, step: Step) -> dict[str, float]:
        return {m: self._rates[m] for m in step.modalities}
