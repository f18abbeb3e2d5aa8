"""Who is ahead, and how far to hold it back: the schedule's formulas (specification A3), pure functions on numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from callbacks.errors import UserError

Signal = Literal["speed", "utilisation", "hybrid"]


@dataclass(frozen=True)
class Adaptive:
    """Schedule of `mode: adaptive` (specification A3).

    Attributes:
        kind: what the schedule drives, `staleness` (tau) or `frequency` (k = tau + 1).
        signal: `speed` (S_m), `utilisation` (probes) or `hybrid` (the larger delay of the two).
        beta: weight of the gradient norms in S_m against the loss descent.
        tau_base: delay at S_m = 1.
        tau_min: smallest delay.
        tau_max: largest delay, also the capacity of the buffer.
        threshold_delta: utilisation gap that is still tolerated.
        gap_full: further gap at which tau_max is reached.
        kappa: `1 + tau_m <= kappa * (1 + min tau)`.
        update_every: committed steps between decisions.
        ramp_steps: committed steps over which delays grow linearly to full.
        window: steps of the loss descent D_m.
        ema: weight of a new gradient norm in G_m.
        ceilings: unimodal ceiling per modality; U_m is then taken relative to it.
    """

    kind: Literal["staleness", "frequency"] = "staleness"
    signal: Signal = "hybrid"
    beta: float = 0.5
    tau_base: int = 0
    tau_min: int = 0
    tau_max: int = 4
    threshold_delta: float = 0.1
    gap_full: float = 0.3
    kappa: float = 3.0
    update_every: int = 10
    ramp_steps: int = 0
    window: int = 10
    ema: float = 0.1
    ceilings: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.tau_min <= self.tau_max:
            raise UserError(
                "asgml.adaptive",
                f"tau_min {self.tau_min}, tau_max {self.tau_max}",
                "0 <= tau_min <= tau_max",
                "set asgml.adaptive.tau_min=0, or raise asgml.adaptive.tau_max",
            )
        if self.kappa < 1 or self.update_every < 1 or self.gap_full <= 0 or self.window < 1:
            raise UserError(
                "asgml.adaptive",
                f"kappa {self.kappa}, update_every {self.update_every}, gap_full {self.gap_full}, window {self.window}",
                "kappa >= 1, update_every >= 1, gap_full > 0, window >= 1",
                "set the key that is out of range, say asgml.adaptive.kappa=3",
            )


@dataclass(frozen=True)
class Boost:
    """Weak-modality boost (specification A3.7): a factor above 1 for the weak encoder; it composes with every mode.

    Attributes:
        enabled: whether it acts beside another mode (`mode: boost` has it on).
        alpha: the largest excess of the factor over 1, before the cap.
        cap: the largest factor.
        ema: the weight of a new factor in its moving average.
        threshold_delta: the utilisation gap that is still tolerated.
        gap_full: the further gap at which `1 + alpha` is reached.
        through: where the factor acts, `lr` or `gradient`.
    """

    enabled: bool = False
    alpha: float = 0.5
    cap: float = 2.0
    ema: float = 0.3
    threshold_delta: float = 0.1
    gap_full: float = 0.3
    through: Literal["lr", "gradient"] = "lr"


def rounded(x: float) -> int:
    """Round halves up (Python's `round` sends 0.5 to 0 and 1.5 to 2, which would make thresholds uneven)."""
    return math.floor(x + 0.5)


def relative(values: Mapping[str, float]) -> dict[str, float]:
    """Divide each value by the mean across modalities; 1 for all where the mean is 0 (no signal favours nobody)."""
    mean = sum(values.values()) / len(values)
    return {m: v / mean if mean > 0 else 1.0 for m, v in values.items()}


def speed_score(gradient: Mapping[str, float], descent: Mapping[str, float], beta: float) -> dict[str, float]:
    """Return `S_m = beta * G_m + (1 - beta) * D_m`, both relative to their mean across modalities."""
    return {m: beta * gradient[m] + (1 - beta) * descent[m] for m in gradient}


def speed_delay(score: Mapping[str, float], tau_base: int, tau_min: int, tau_max: int) -> dict[str, int]:
    """Return tau_m of `1 + tau_m = clip(round((1 + tau_base) * S_m), 1 + tau_min, 1 + tau_max)`."""
    return {m: min(max(rounded((1 + tau_base) * s), 1 + tau_min), 1 + tau_max) - 1 for m, s in score.items()}


def utilisation_excess(utilisation: Mapping[str, float], threshold: float, gap_full: float) -> dict[str, float]:
    """Return `min(1, relu(U_m - min U - threshold) / gap_full)`: how far ahead of the weakest, in [0, 1]."""
    low = min(utilisation.values())
    return {m: min(1.0, max(0.0, u - low - threshold) / gap_full) for m, u in utilisation.items()}


def utilisation_delay(
    utilisation: Mapping[str, float], tau_min: int, tau_max: int, threshold: float, gap_full: float
) -> dict[str, int]:
    """Return `tau_m = round((tau_max - tau_min) * excess_m) + tau_min`: the weakest always has tau_min."""
    excess = utilisation_excess(utilisation, threshold, gap_full)
    return {m: rounded((tau_max - tau_min) * e) + tau_min for m, e in excess.items()}


def constrain(delay: Mapping[str, int], kappa: float) -> dict[str, int]:
    """Enforce `1 + tau_m <= kappa * (1 + min tau)`: nobody falls more than kappa times behind."""
    most = math.floor(kappa * (1 + min(delay.values()))) - 1
    return {m: min(tau, most) for m, tau in delay.items()}


def ramped(delay: Mapping[str, int], t: int, ramp_steps: int, tau_min: int) -> dict[str, int]:
    """Let at committed step t at most the fraction t / ramp_steps of each delay above tau_min be in force."""
    share = 1.0 if ramp_steps <= 0 else min(1.0, t / ramp_steps)
    return {m: tau_min + math.floor((tau - tau_min) * share) if tau > tau_min else tau for m, tau in delay.items()}


def decide(schedule: Adaptive, score: Mapping[str, float], utilisation: Mapping[str, float], t: int) -> dict[str, int]:
    """Return the delay of every modality: `speed`, `utilisation`, or `hybrid` (the larger of the two), constrained and
    ramped.

    Args:
        score: S_m; not read for `utilisation`.
        utilisation: U_m, absolute (or relative to the modality's own ceiling); not read for `speed`.
        t: committed steps.
    """
    a, speed, use = schedule, dict[str, int](), dict[str, int]()
    if a.signal != "utilisation":
        speed = speed_delay(score, a.tau_base, a.tau_min, a.tau_max)
    if a.signal != "speed":
        use = utilisation_delay(utilisation, a.tau_min, a.tau_max, a.threshold_delta, a.gap_full)
    delay = {m: max(speed.get(m, a.tau_min), use.get(m, a.tau_min)) for m in speed or use}
    return constrain(ramped(delay, t, a.ramp_steps, a.tau_min), a.kappa)


def boost_scale(boost: Boost, utilisation: Mapping[str, float]) -> dict[str, float]:
    """Return `min(cap, 1 + alpha * min(1, relu(max U - U_m - threshold_delta) / gap_full))` per modality: gated and
    absolute."""
    high = max(utilisation.values())
    excess = {m: max(0.0, high - u - boost.threshold_delta) / boost.gap_full for m, u in utilisation.items()}
    return {m: min(boost.cap, 1 + boost.alpha * min(1.0, e)) for m, e in excess.items()}
