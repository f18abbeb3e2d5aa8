"""MSLR: modality-specific learning rates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from asgml.methods.base import Epoch, Method, Step
from callbacks.errors import UserError


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
        strategy: `dynamic` or `keep`.
        history: epochs between two changes, and in the mean.
        factors: f_m at the beginning, 1 where not given.
    """

    strategy: str = "dynamic"
    history: int = 5
    factors: dict[str, float] | None = None
    _rates: dict[str, float] = field(default_factory=dict, repr=False)
    _seen: dict[str, list[float]] = field(default_factory=dict, repr=False)

    def setup(self, modalities: list[str], classes: int, seed: int) -> None:
        given = self.factors or {}
        if self.strategy not in ("dynamic", "keep"):
            raise UserError("methods.mslr.strategy", self.strategy, "dynamic or keep", "choose one of the two")
        if self.history < 2:
            raise UserError("methods.mslr.history", str(self.history), "2 or more", "with 1 nothing ever changes; 5")
        for m, f in given.items():
            if m not in modalities or f < 0:
                names = ", ".join(modalities)
                raise UserError(f"methods.mslr.factors.{m}", str(f), f"0 or more, for one of {names}", "correct it")
        if self.strategy == "keep" and not given:
            raise UserError("methods.mslr", "strategy keep without factors", "factors", "factors={audio: 0.1}")
        self._rates = {m: given.get(m, 1.0) for m in modalities}

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

    def state(self) -> dict[str, Any]:
        return {"rates": dict(self._rates), "seen": {m: list(v) for m, v in self._seen.items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        self._rates = dict(state["rates"])
        self._seen = {m: list(v) for m, v in state["seen"].items()}
