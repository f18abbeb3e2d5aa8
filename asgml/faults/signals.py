"""Faults of the signals that the adaptive schedule reads: a clamped descent, and averages that start at 0."""

from __future__ import annotations

from operator import mul

from asgml.rhythm.dynamics import DynamicsTracker
from asgml.rhythm.schedule import relative
from callbacks.stages.probe import ProbeEMA


class ClampedDescentTracker(DynamicsTracker):
    """Takes `max(0, descent)` for D_m, relative: a modality whose loss rises counts as one that stands still.

    The signal is lost exactly where it is needed most, when a modality overfits. Breaks specification A3.2. The descent
    is that of the exact code in everything else: the slope of the least-squares line, with its sign turned.
    """

    def descent(self) -> dict[str, float]:
        """Return D_m of every modality; 1 for all until every window is full, and where every loss rises."""
        if any(len(w) < self.window for w in self.losses.values()):
            return dict.fromkeys(self.losses, 1.0)
        return relative({m: max(0.0, -sum(map(mul, self.weights, w))) for m, w in self.losses.items()})


class ZeroStartTracker(DynamicsTracker):
    """Averages gradient norms from 0 on, without bias correction.

    Breaks specification A3.1. Where all modalities have had a gradient equally often, the missing correction cancels in
    the relative G_m; one that was held or missing looks slower than it is.
    """

    def gradient(self) -> dict[str, float]:
        """Return G_m of every modality; 1 for all until every modality has had a gradient."""
        return relative(self.sums) if all(self.counts.values()) else dict.fromkeys(self.sums, 1.0)


class ZeroStartProbe(ProbeEMA):
    """Averages the probes' accuracies from 0 on, without bias correction.

    Breaks specification A4.3. After n scores a utilisation is `1 - (1 - alpha)^n` of what it should be: 0.1 of it after
    the first, 0.65 after ten. Gaps are too small by as much, and delays begin too late.

    Example::

        +fault=zero_start_ema asgml.mode=adaptive

    Limits: replays a fault; no run of a method uses it. Arguments as of `callbacks.ProbeEMA`.
    """

    @property
    def utilisation(self) -> dict[str, float]:
        return {m: score.sum for m, score in self.scores.items()}
