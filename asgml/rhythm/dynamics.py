"""DynamicsTracker: how fast each modality learns, from gradient norms and losses (specification A3.1, A3.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from operator import mul
from typing import Any

from asgml.rhythm.schedule import relative, speed_score
from callbacks.ranges import Count, PositiveShare, Several


def slope_weights(window: int) -> list[float]:
    """Return w such that `sum_i w_i y_i` is the slope of the least-squares line through y_0 … y_{window - 1}.

    They are `(i - mean i) / sum_j (j - mean j)^2`.
    """
    centred = [i - (window - 1) / 2 for i in range(window)]
    total = sum(c * c for c in centred)
    return [c / total for c in centred]


class DynamicsTracker:
    """Tracks `G_m` and `D_m` on the host, from numbers that the step has read anyway.

    `G_m` is the bias-corrected moving average of `‖g_m‖ / sqrt(parameters of m)` over its mean across modalities. `D_m`
    is the absolute slope of the least-squares line through the last `window` losses, over its mean across modalities.
    It is an absolute value, because clamping at 0 would lose the signal exactly when losses rise. It is a slope through
    all of them, because the difference of two single batches is mostly their variance: with batch losses of standard
    deviation s around a line, the slope errs by `s * sqrt(12 / (window^3 - window))` a step, 0.0098 s at a window of 50
    and 0.11 s at one of 10.

    Args:
        sizes: the number of parameters of each modality's encoder.
        window: the number of losses through which the line is laid, at least 2.
        ema: the weight of a new gradient norm.

    Attributes:
        first: the first `window` values of `‖g_m‖ / sqrt(parameters of m)` above 0, of each modality.
    """

    def __init__(self, sizes: Mapping[str, Count], window: Several = 50, ema: PositiveShare = 0.1):
        self.roots = {m: max(1, n) ** 0.5 for m, n in sizes.items()}
        self.window, self.ema = window, ema
        self.sums = dict.fromkeys(self.roots, 0.0)
        self.counts = dict.fromkeys(self.roots, 0)
        self.losses: dict[str, deque[float]] = {m: deque(maxlen=window) for m in self.roots}
        self.weights = slope_weights(window)
        self.first: dict[str, list[float]] = {m: [] for m in self.roots}

    def observe(self, norms: Mapping[str, float], losses: Mapping[str, float]) -> None:
        """Take in one committed step.

        Args:
            norms: the norm of each modality's fresh gradient; 0 (held by `hard`, or missing) leaves its average as it
                is.
            losses: the losses of the modalities that have one in this step.
        """
        for m, value in norms.items():
            if value > 0:
                self.sums[m] = (1 - self.ema) * self.sums[m] + self.ema * value / self.roots[m]
                self.counts[m] += 1
                if len(self.first[m]) < self.window:
                    self.first[m].append(value / self.roots[m])
        for m, value in losses.items():
            self.losses[m].append(value)

    def gradient(self) -> dict[str, float]:
        """Return G_m of every modality; 1 for all until every modality has had a gradient."""
        if not all(self.counts.values()):
            return dict.fromkeys(self.sums, 1.0)
        return relative({m: s / (1 - (1 - self.ema) ** self.counts[m]) for m, s in self.sums.items()})

    def descent(self) -> dict[str, float]:
        """Return D_m of every modality; 1 for all until every window is full."""
        if any(len(w) < self.window for w in self.losses.values()):
            return dict.fromkeys(self.losses, 1.0)
        return relative({m: abs(sum(map(mul, self.weights, w))) for m, w in self.losses.items()})

    def strengths(self) -> dict[str, float] | None:
        """Return the mean of `first` by modality, None until all are full.

        On the saddle of linear paths the gradient of a layer is the correlation s_m times the layers behind it, so that
        between encoders of one kind, started alike, its size per parameter stands as s_m does. Of a network that is an
        estimate: the noise of batches makes strengths look alike, and a window in which the fast one has already left
        the saddle makes them look different.
        """
        if any(len(values) < self.window for values in self.first.values()):
            return None
        return {m: sum(values) / len(values) for m, values in self.first.items()}

    def score(self, beta: float) -> dict[str, float]:
        """Return S_m of every modality (specification A3.3)."""
        return speed_score(self.gradient(), self.descent(), beta)

    def state(self) -> dict[str, Any]:
        """Return all that has been taken in, in plain dicts, lists and numbers."""
        return {
            "sums": dict(self.sums),
            "counts": dict(self.counts),
            "losses": {m: list(w) for m, w in self.losses.items()},
            "first": {m: list(values) for m, values in self.first.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
        self.losses = {m: deque(w, maxlen=self.window) for m, w in state["losses"].items()}
        self.first = {m: list(values) for m, values in state["first"].items()}
