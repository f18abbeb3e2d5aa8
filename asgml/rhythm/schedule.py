"""Who is ahead, and how far to hold it back: the schedule's formulas (asgml.md §3), as pure functions on
numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

Signal = Literal["speed", "utilisation", "hybrid"]


def rounded(x: float) -> int:
    """Rounds halves up (Python's `round` sends 0.5 to 0 and 1.5 to 2, which would make thresholds uneven)."""
    return math.floor(x + 0.5)


def relative(values: Mapping[str, float]) -> dict[str, float]:
    """Each value over the mean across modalities; 1 for all where the mean is 0 (no signal favours nobody)."""
    mean = sum(values.values()) / len(values)
    return {m: v / mean if mean > 0 else 1.0 for m, v in values.items()}


def speed_score(gradient: Mapping[str, float], descent: Mapping[str, float], beta: float) -> dict[str, float]:
    """`S_m = beta * G_m + (1 - beta) * D_m`, both relative to their mean across modalities."""
    return {m: beta * gradient[m] + (1 - beta) * descent[m] for m in gradient}


def speed_delay(score: Mapping[str, float], tau_base: int, tau_min: int, tau_max: int) -> dict[str, int]:
    """`1 + tau_m = clip(round((1 + tau_base) * S_m), 1 + tau_min, 1 + tau_max)`."""
    return {m: min(max(rounded((1 + tau_base) * s), 1 + tau_min), 1 + tau_max) - 1 for m, s in score.items()}


def utilisation_excess(utilisation: Mapping[str, float], threshold: float, gap_full: float) -> dict[str, float]:
    """`min(1, relu(U_m - min U - threshold) / gap_full)`: how far ahead of the weakest, in [0, 1]."""
    low = min(utilisation.values())
    return {m: min(1.0, max(0.0, u - low - threshold) / gap_full) for m, u in utilisation.items()}


def utilisation_delay(
    utilisation: Mapping[str, float], tau_min: int, tau_max: int, threshold: float, gap_full: float
) -> dict[str, int]:
    """`tau_m = round((tau_max - tau_min) * excess_m) + tau_min`: the weakest always has tau_min."""
    excess = utilisation_excess(utilisation, threshold, gap_full)
    return {m: rounded((tau_max - tau_min) * e) + tau_min for m, e in excess.items()}


def constrain(delay: Mapping[str, int], kappa: float) -> dict[str, int]:
    """`1 + tau_m <= kappa * (1 + min tau)`: nobody falls more than kappa times behind."""
    most = math.floor(kappa * (1 + min(delay.values()))) - 1
    return {m: min(tau, most) for m, tau in delay.items()}


def ramped(delay: Mapping[str, int], t: int, ramp_steps: int, tau_min: int) -> dict[str, int]:
    """Linear ramp: at committed step t at most the fraction t / ramp_steps of each delay above tau_min is in
    force."""
    share = 1.0 if ramp_steps <= 0 else min(1.0, t / ramp_steps)
    return {m: tau_min + math.floor((tau - tau_min) * share) if tau > tau_min else tau for m, tau in delay.items()}


def decide(
    signal: Signal,
    score: Mapping[str, float],
    utilisation: Mapping[str, float],
    t: int,
    tau_base: int,
    tau_min: int,
    tau_max: int,
    threshold: float,
    gap_full: float,
    kappa: float,
    ramp_steps: int,
) -> dict[str, int]:
    """The delay of every modality: `speed`, `utilisation`, or `hybrid` (the larger of the two), constrained and
    ramped.

    Args:
        score: S_m; not read for `utilisation`.
        utilisation: U_m, absolute (or relative to the modality's own ceiling); not read for `speed`.
    """
    speed = speed_delay(score, tau_base, tau_min, tau_max) if signal != "utilisation" else {}
    use = utilisation_delay(utilisation, tau_min, tau_max, threshold, gap_full) if signal != "speed" else {}
    names = list(speed or use)
    delay = {m: max(speed.get(m, tau_min), use.get(m, tau_min)) for m in names}
    return constrain(ramped(delay, t, ramp_steps, tau_min), kappa)


def boost_scale(
    utilisation: Mapping[str, float], alpha: float, threshold: float, gap_full: float, cap: float
) -> dict[str, float]:
    """`min(cap, 1 + alpha * min(1, relu(max U - U_m - threshold) / gap_full))` (weak-modality boost, gated and
    absolute)."""
    high = max(utilisation.values())
    return {
        m: min(cap, 1 + alpha * min(1.0, max(0.0, high - u - threshold) / gap_full)) for m, u in utilisation.items()
    }
