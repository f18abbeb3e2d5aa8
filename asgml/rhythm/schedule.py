"""Which modality is ahead, and how far it is held back: the schedule's formulas (specification A3) on plain numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from asgml.theory.together import interval_of
from callbacks.errors import UserError
from callbacks.ranges import (
    NOT_EMPTY,
    Count,
    Delay,
    Multiple,
    NonNegative,
    Positive,
    PositiveShare,
    Several,
    Share,
    Steps,
)
from callbacks.step.groups import Through

Signal = Literal["speed", "utilisation", "hybrid", "blend", "theory"]
Z95 = 1.959964  # the two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class Adaptive:
    """Holds the settings of the schedule of `mode: adaptive` (specification A3).

    Attributes:
        kind: what the schedule sets: the delay (`staleness`) or the interval (`frequency`, k = tau + 1).
        signal: what delays follow: `speed` (S_m), `utilisation` (probes), `hybrid` (the larger delay of the two),
            `blend` (a weighted mean of the two; these two never delay the weakest modality) or `theory` (the interval
            at which linear paths leave the saddle together, from the gradients of the first `window` steps).
        blend_weight: the weight of the speed delay in `blend`, in [0, 1], against the utilisation delay.
        beta: the weight of the gradient norms in S_m, against the loss descent.
        tau_base: the delay at S_m = 1, in committed steps.
        tau_min: the smallest delay, in committed steps.
        tau_max: the largest delay, in committed steps.
        threshold_delta: the utilisation gap that is still tolerated, beyond its own noise.
        gap_full: the further gap at which tau_max is reached.
        kappa: the largest ratio of `1 + tau_m` to `1 + min tau`; tau_max must be within it.
        update_every: the number of committed steps between two decisions.
        ramp_steps: the number of committed steps over which delays grow linearly to their full size.
        window: the number of losses through which the line is laid whose slope is the loss descent D_m, at least 2;
            with `theory`, the number of first steps in which strengths are measured.
        ema: the weight of a new gradient norm in G_m.
        ceilings: the ceiling of each modality alone, to which U_m is then taken relative; `auto` takes the accuracy at
            the best validation epoch of the finished run `method=unimodal` of each modality in this configuration.

    Raises:
        UserError: a value out of its range, or a kappa under which tau_max cannot be reached.
    """

    kind: Literal["staleness", "frequency"] = "staleness"
    signal: Signal = "hybrid"
    blend_weight: Share = 0.5
    beta: Share = 0.5
    tau_base: Delay = 0
    tau_min: Delay = 0
    tau_max: Delay = 2
    threshold_delta: NonNegative = 0.1
    gap_full: Positive = 0.3
    kappa: Multiple = 3.0
    update_every: Count = 10
    ramp_steps: Steps = 0
    window: Several = 50
    ema: PositiveShare = 0.1
    ceilings: Annotated[dict[str, PositiveShare], NOT_EMPTY] | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.tau_min <= self.tau_max:
            raise UserError(
                "asgml.adaptive",
                f"tau_min {self.tau_min}, tau_max {self.tau_max}",
                "0 <= tau_min <= tau_max",
                f"set asgml.adaptive.tau_min={Adaptive.tau_min} asgml.adaptive.tau_max={Adaptive.tau_max}",
            )
        for key, allowed, expected in (
            ("blend_weight", 0 <= self.blend_weight <= 1, "between 0 and 1"),
            ("kappa", self.kappa >= 1, "1 or more"),
            ("update_every", self.update_every >= 1, "1 or more"),
            ("gap_full", self.gap_full > 0, "above 0"),
            ("window", self.window >= 2, "2 or more"),
        ):
            if not allowed:
                where, default = f"asgml.adaptive.{key}", getattr(Adaptive, key)
                raise UserError(where, str(getattr(self, key)), expected, f"set {where}={default}")
        if self.signal == "theory" and self.kind == "staleness":
            raise UserError(
                "asgml.adaptive.signal",
                "'theory' with asgml.adaptive.kind=staleness",
                "asgml.adaptive.kind=frequency: the delay that would make all leave together is stable only where "
                "strengths differ by less than a factor of 1.63 (docs/theory.md)",
                "set asgml.adaptive.kind=frequency or asgml.adaptive.signal=hybrid",
            )
        if isinstance(self.ceilings, dict) and min(self.ceilings.values(), default=1.0) <= 0:
            remedy = "set asgml.adaptive.ceilings=null or asgml.adaptive.ceilings=auto"
            raise UserError("asgml.adaptive.ceilings", str(self.ceilings), "accuracies above 0", remedy)
        low = self._least()
        most, needed = within_kappa(low, self.kappa), math.ceil((1 + self.tau_max) / (1 + low))
        if most < self.tau_max:
            raise UserError(
                "asgml.adaptive.kappa",
                f"{self.kappa} with tau_max {self.tau_max}: somebody's delay is at most {low}, so that no delay above "
                f"{most} can be reached",
                f"1 + tau_max <= kappa * (1 + {low})",
                f"set asgml.adaptive.tau_max={most} or asgml.adaptive.kappa={needed}",
            )

    @property
    def tops(self) -> dict[str, float]:
        """Return the ceilings by modality, as far as there are any.

        Raises:
            ValueError: `auto` has not been replaced by numbers.
        """
        if self.ceilings == "auto":
            raise ValueError("ceilings: auto is replaced by asgml.train.teachers.unimodal_ceilings")
        return dict(self.ceilings or {})

    def _least(self) -> int:
        """Return the largest value that the smallest of all delays can have.

        The weakest modality has tau_min. By `speed` alone, where scores have the mean 1, somebody's is at most 1.
        """
        return min(max(self.tau_base, self.tau_min), self.tau_max) if self.signal == "speed" else self.tau_min

    def largest(self, modalities: int) -> int:
        """Return the largest delay that any of so many modalities can be given, in committed steps."""
        if self.signal in ("utilisation", "hybrid", "theory"):
            return self.tau_max
        fastest = rounded((1 + self.tau_base) * modalities) - 1  # one score is at most the sum of all
        fastest = min(max(fastest, self.tau_min), self.tau_max)
        weight = self.blend_weight if self.signal == "blend" else 1.0
        return rounded(weight * fastest + (1 - weight) * self.tau_max)


@dataclass(frozen=True)
class Boost:
    """Holds the settings of the boost of the weak modality (specification A3.7), which composes with every mode.

    Attributes:
        enabled: whether the boost acts beside another mode (`mode: boost` has it on).
        alpha: the largest excess of the factor over 1, before the cap.
        cap: the largest factor.
        ema: the weight of a new factor in its moving average.
        threshold_delta: the utilisation gap that is still tolerated.
        gap_full: the further gap at which `1 + alpha` is reached.
        relative: whether the gap is measured against the largest one alone (the rule of this suite's predecessor): the
            weakest encoder then always has `1 + alpha`, at a gap of 0.001 as at one of 0.5.
        through: where the factor acts: `lr`, `gradient`, or `auto` (the gradient under SGD, else the learning rate).
    """

    enabled: bool = False
    alpha: NonNegative = 0.5
    cap: Multiple = 2.0
    ema: PositiveShare = 0.3
    threshold_delta: NonNegative = 0.1
    gap_full: Positive = 0.3
    relative: bool = False
    through: Through = "auto"


def rounded(x: float) -> int:
    """Round halves up; Python's `round` sends 0.5 to 0 and 1.5 to 2, which would make thresholds uneven."""
    return math.floor(x + 0.5)


def relative(values: Mapping[str, float]) -> dict[str, float]:
    """Divide each value by the mean across modalities; where the mean is 0, return 1 for all, so nobody is ahead."""
    mean = sum(values.values()) / len(values)
    return {m: v / mean if mean > 0 else 1.0 for m, v in values.items()}


def speed_score(gradient: Mapping[str, float], descent: Mapping[str, float], beta: float) -> dict[str, float]:
    """Return `S_m = beta * G_m + (1 - beta) * D_m`, both relative to their mean across modalities."""
    return {m: beta * gradient[m] + (1 - beta) * descent[m] for m in gradient}


def speed_delay(score: Mapping[str, float], tau_base: int, tau_min: int, tau_max: int) -> dict[str, int]:
    """Return tau_m of `1 + tau_m = clip(round((1 + tau_base) * S_m), 1 + tau_min, 1 + tau_max)`."""
    return {m: min(max(rounded((1 + tau_base) * s), 1 + tau_min), 1 + tau_max) - 1 for m, s in score.items()}


def utilisation_excess(
    utilisation: Mapping[str, float], threshold: float, gap_full: float, noise: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return how far each modality is surely ahead of the weakest.

    It is `min(1, relu(U_m - min U - noise_m - threshold) / gap_full)`: the lower limit of the gap takes the gap's
    place. `noise` is that of each gap (see `gap_noise`), none where it is left out.
    """
    low, noise = min(utilisation.values()), noise or {}
    return {m: min(1.0, max(0.0, u - low - noise.get(m, 0.0) - threshold) / gap_full) for m, u in utilisation.items()}


def utilisation_delay(
    utilisation: Mapping[str, float],
    tau_min: int,
    tau_max: int,
    threshold: float,
    gap_full: float,
    noise: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """Return `tau_m = round((tau_max - tau_min) * excess_m) + tau_min`, so that the weakest always has tau_min."""
    excess = utilisation_excess(utilisation, threshold, gap_full, noise)
    return {m: rounded((tau_max - tau_min) * e) + tau_min for m, e in excess.items()}


def theory_delay(strengths: Mapping[str, float], between: float, tau_min: int, tau_max: int) -> dict[str, int]:
    """Return `tau_m = clip(round(k_m) - 1, tau_min, tau_max)`, k_m being the interval at which all leave together.

    It is `asgml.theory.together.interval_of` the strength over the smallest, for encoders below a head that is free.
    """
    weakest = min(strengths.values())
    k = {m: interval_of(s / weakest, "encoder", between) for m, s in strengths.items()}
    return {m: tau_max if math.isinf(v) else min(max(rounded(v) - 1, tau_min), tau_max) for m, v in k.items()}


def larger(speed: Mapping[str, int], use: Mapping[str, int]) -> dict[str, int]:
    """Return the larger of the speed delay and the utilisation delay of each modality."""
    return {m: max(speed[m], use[m]) for m in speed}


def blended(speed: Mapping[str, int], use: Mapping[str, int], weight: float) -> dict[str, int]:
    """Return `round(weight * speed_m + (1 - weight) * use_m)` of the speed and the utilisation delay."""
    return {m: rounded(weight * speed[m] + (1 - weight) * use[m]) for m in speed}


def spare_weakest(delay: Mapping[str, int], utilisation: Mapping[str, float], tau_min: int) -> dict[str, int]:
    """Give the weakest modality by U (all that share the lowest value) tau_min, however fast it learns."""
    low = min(utilisation.values())
    return {m: tau_min if utilisation[m] == low else tau for m, tau in delay.items()}


def within_kappa(least: int, kappa: float) -> int:
    """Return the largest tau of `1 + tau <= kappa * (1 + least)`."""
    return math.floor(kappa * (1 + least) + 1e-9) - 1  # 5 / 3 * 3 is 5


def constrain(delay: Mapping[str, int], kappa: float) -> dict[str, int]:
    """Enforce `1 + tau_m <= kappa * (1 + min tau)`, so that nobody falls more than kappa times behind."""
    most = within_kappa(min(delay.values()), kappa)
    return {m: min(tau, most) for m, tau in delay.items()}


def ramped(delay: Mapping[str, int], t: int, ramp_steps: int, tau_min: int) -> dict[str, int]:
    """Reduce each delay's part above tau_min to the fraction `t / ramp_steps` of it, at committed step t."""
    share = 1.0 if ramp_steps <= 0 else min(1.0, t / ramp_steps)
    return {m: tau_min + math.floor((tau - tau_min) * share) if tau > tau_min else tau for m, tau in delay.items()}


def decide(
    schedule: Adaptive,
    score: Mapping[str, float],
    utilisation: Mapping[str, float],
    t: int,
    noise: Mapping[str, float] | None = None,
    strengths: Mapping[str, float] | None = None,
    between: float = 0.0,
) -> dict[str, int]:
    """Return the delay of every modality, in committed steps, by the schedule's signal, ramp and limit.

    Args:
        schedule: the settings.
        score: S_m; not read for `utilisation` and `theory`.
        utilisation: U_m, absolute or relative to the modality's own ceiling; not read for `speed` and `theory`.
        t: the number of committed steps.
        noise: the noise of each modality's gap to the weakest (see `gap_noise`), none where it is left out.
        strengths: what `theory` goes by, None until they are measured: everybody then has tau_min.
        between: the factor that the masking leaves between two updates; read for `theory` alone.
    """
    a, speed, use = schedule, dict[str, int](), dict[str, int]()
    if a.signal == "theory":
        delay = theory_delay(strengths, between, a.tau_min, a.tau_max) if strengths else dict.fromkeys(score, a.tau_min)
        return constrain(ramped(delay, t, a.ramp_steps, a.tau_min), a.kappa)
    if a.signal != "utilisation":
        speed = speed_delay(score, a.tau_base, a.tau_min, a.tau_max)
    if a.signal != "speed":
        use = utilisation_delay(utilisation, a.tau_min, a.tau_max, a.threshold_delta, a.gap_full, noise)
    delay = speed or use
    if speed and use:
        both = blended(speed, use, a.blend_weight) if a.signal == "blend" else larger(speed, use)
        delay = spare_weakest(both, utilisation, a.tau_min)
    return constrain(ramped(delay, t, a.ramp_steps, a.tau_min), a.kappa)


def accuracy_interval(accuracy: float, rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of an accuracy that was measured on as many rows; (0, 1) for none."""
    centre = (accuracy * rows + Z95**2 / 2) / (rows + Z95**2)
    half = Z95 * math.sqrt(rows * accuracy * (1 - accuracy) + Z95**2 / 4) / (rows + Z95**2)
    return min(accuracy, centre - half), max(accuracy, centre + half)  # at 0 and 1 exact but for rounding


def gap_noise(
    accuracy: Mapping[str, float], rows: int, ceilings: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the noise of each modality's gap to the weakest: what the gap exceeds its 95 % lower limit by.

    The limit is that of Newcombe (Statistics in Medicine 1998, method 10) for the difference of two proportions, made
    of their Wilson intervals: the noise is `sqrt((a_m - low(a_m))^2 + (high(a_w) - a_w)^2)`, w being the weakest. It is
    on the safe side twice: all modalities are scored on the same rows, which makes their difference steadier than that
    of independent samples, and a moving average gets no credit for the scores that it averages, because a fixed batch
    errs the same way every time.

    Args:
        accuracy: the probes' accuracies, in [0, 1].
        rows: the number of held-out rows that each is measured on; with 0, no gap exceeds its noise.
        ceilings: the ceilings by which accuracies and intervals are divided, 1 where there is none.
    """
    top = ceilings or {}
    used = {m: a / top.get(m, 1.0) for m, a in accuracy.items()}
    weakest = min(used, key=used.__getitem__)
    above = (accuracy_interval(accuracy[weakest], rows)[1] - accuracy[weakest]) / top.get(weakest, 1.0)
    below = {m: (a - accuracy_interval(a, rows)[0]) / top.get(m, 1.0) for m, a in accuracy.items()}
    return {m: 0.0 if m == weakest else math.hypot(below[m], above) for m in accuracy}


def dominant_beyond_noise(accuracy: Mapping[str, float], rows: int) -> str | None:
    """Return the modality with the highest accuracy where its gap to the weakest exceeds its noise, else None."""
    strong, low = max(accuracy, key=accuracy.__getitem__), min(accuracy.values())
    return strong if accuracy[strong] - low > gap_noise(accuracy, rows)[strong] else None


def boost_scale(boost: Boost, utilisation: Mapping[str, float]) -> dict[str, float]:
    """Return the factor `min(cap, 1 + alpha * min(1, relu(max U - U_m - threshold_delta) / gap_full))` by modality.

    If `relative`, it is `min(cap, 1 + alpha * (max U - U_m) / (max U - min U))`, and 1 where all are equal.
    """
    high = max(utilisation.values())
    if boost.relative:
        gap = high - min(utilisation.values())
        behind = {m: (high - u) / gap if gap > 0 else 0.0 for m, u in utilisation.items()}
        return {m: min(boost.cap, 1 + boost.alpha * b) for m, b in behind.items()}
    excess = {m: max(0.0, high - u - boost.threshold_delta) / boost.gap_full for m, u in utilisation.items()}
    return {m: min(boost.cap, 1 + boost.alpha * min(1.0, e)) for m, e in excess.items()}


def change_event(m: str, before: int, tau: int, t: int, why: str) -> str:
    """Return the detail of the event that encoder m has another delay (or interval less 1) from committed step t on."""
    return f"{m} tau {before}->{tau} from step {t} because {why}"


def read_change_event(detail: str) -> tuple[str, int, int]:
    """Return modality, delay and first committed step of what `change_event` wrote."""
    found = re.fullmatch(r"(.+?) tau \d+->(\d+) from step (\d+) because .*", detail)
    if found is None:
        raise ValueError(f"no change of a delay: {detail}")
    return found[1], int(found[2]), int(found[3])
