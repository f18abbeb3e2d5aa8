"""DynamicsTracker: how fast each modality learns, from gradient norms and losses (specification A3.1, A3.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from asgml.rhythm.schedule import relative, speed_score


class DynamicsTracker:
    """Track `G_m` and `D_m`. Pure host arithmetic on numbers the step has read anyway.

    `G_m`: bias-corrected EMA of ‖g_m‖ / sqrt(parameters of m), over the mean across modalities. `D_m`: `|L_m(t -
        k) - L_m(t)|` over its mean; the absolute value, because clamping at 0 would lose the signal exactly when
        losses rise.

    Args:
        sizes: parameters per modality's encoder.
        window: k, steps of the loss descent.
        ema: weight of a new gradient norm.
    """

    def __init__(self, sizes: Mapping[str, int], window: int = 10, ema: float = 0.1):
        self.roots = {m: max(1, n) ** 0.5 for m, n in sizes.items()}
        self.window, self.ema = window, ema
        self.sums = dict.fromkeys(self.roots, 0.0)
        self.counts = dict.fromkeys(self.roots, 0)
        self.losses: dict[str, deque[float]] = {m: deque(maxlen=window + 1) for m in self.roots}

    def observe(self, norms: Mapping[str, float], losses: Mapping[str, float]) -> None:
        """Take in one committed step.

        A modality without a gradient (held by `hard`, or missing) keeps its EMA; one without a loss keeps its window.
        """
        for m, value in norms.items():
            if value > 0:
                self.sums[m] = (1 - self.ema) * self.sums[m] + self.ema * value / self.roots[m]
                self.counts[m] += 1
        for m, value in losses.items():
            self.losses[m].append(value)

    def gradient(self) -> dict[str, float]:
        """Return G_m; 1 for all until every modality has had a gradient."""
        if not all(self.counts.values()):
            return dict.fromkeys(self.sums, 1.0)
        return relative({m: s / (1 - (1 - self.ema) ** self.counts[m]) for m, s in self.sums.items()})

    def descent(self) -> dict[str, float]:
        """Return D_m; 1 for all until every window is full."""
        if any(len(w) <= self.window for w in self.losses.values()):
            return dict.fromkeys(self.losses, 1.0)
        return relative({m: abs(w[0] - w[-1]) for m, w in self.losses.items()})

    def score(self, beta: float) -> dict[str, float]:
        """Return S_m."""
        return speed_score(self.gradient(), self.descent(), beta)

    def state(self) -> dict[str, Any]:
        return {
            "sums": dict(self.sums),
            "counts": dict(self.counts),
            "losses": {m: list(w) for m, w in self.losses.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
        self.losses = {m: deque(w, maxlen=self.window + 1) for m, w in state["losses"].items()}
