"""What is trained when: weights of objectives over steps, and the periods of a run.

Pure functions of committed steps and observed metrics; no state but that of a gate. The configuration lists the periods
of a run under the key `stages`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Count, Finite, HeldRate, Layers, Multiple, NonNegative, Positive, Steps
from callbacks.stages.lr import LRSchedule
from latentwire.train.criterion import Criterion, inside, refuse_bounds

Observed = Mapping[str, float]
KINDS = ("encoder", "codec", "adapter", "injector", "lora", "head")  # of parameter groups


class Schedule:
    """Weighs an objective over committed steps."""

    def weight(self, t: int, observed: Observed) -> float:
        """Return the weight at step t, given what was observed up to step t - 1."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return plain values to remember over a restart."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take in what `state` returned."""

    def metrics(self) -> set[str]:
        """Return the names of the observed metrics that it reads."""
        return set()


class Constant(Schedule):
    """Stays where it is: w(t) = value.

    Args:
        value: the weight.
    """

    def __init__(self, value: NonNegative = 1.0):
        self.value = float(value)

    def weight(self, t: int, observed: Observed) -> float:
        return self.value


class Delayed(Schedule):
    """Starts late: w(t) = 0 for t < start, then value."""

    def __init__(self, start: Steps, value: NonNegative = 1.0):
        self.start, self.value = start, float(value)

    def weight(self, t: int, observed: Observed) -> float:
        return self.value if t >= self.start else 0.0


class Linear(Schedule):
    """Goes in a straight line.

    Args:
        first: the weight until `start`.
        last: the weight from `start + steps` on.
        steps: the length of the way.
        start: where it begins.
    """

    def __init__(self, first: NonNegative, last: NonNegative, steps: Steps, start: Steps = 0):
        self.first, self.last = float(first), float(last)
        self.steps, self.start = steps, start

    def weight(self, t: int, observed: Observed) -> float:
        return self.first + (self.last - self.first) * self.done(_progress(t, self.start, self.steps))

    def done(self, progress: float) -> float:
        """Return the share of the way at a share of the steps."""
        return progress


class Cosine(Linear):
    """Goes where `Linear` goes, along half a cosine: flat at both ends.

    Args:
        first: the weight until `start`.
        last: the weight from `start + steps` on.
        steps: the length of the way.
        start: where it begins.
    """

    def done(self, progress: float) -> float:
        return 0.5 - 0.5 * math.cos(math.pi * progress)


class PeakAndDecay(Schedule):
    """Rises to `peak` in `rise` steps (straight), stays for `hold`, falls to `floor` in `decay` (half a cosine)."""

    def __init__(
        self, peak: NonNegative = 1.0, rise: Steps = 0, hold: Steps = 0, decay: Steps = 1, floor: NonNegative = 0.0
    ):
        self.peak, self.floor = float(peak), float(floor)
        self.rise, self.hold, self.decay = rise, hold, decay

    def weight(self, t: int, observed: Observed) -> float:
        if t < self.rise:
            return self.peak * t / self.rise
        done = 0.5 - 0.5 * math.cos(math.pi * _progress(t, self.rise + self.hold, self.decay))
        return self.peak + (self.floor - self.peak) * done


class Gated(Schedule):
    """Lets another schedule count in full only while a metric allows it.

    The gate is closed before the metric was observed and outside its bounds; the weight is then `closed` times that of
    the schedule: 0 switches an objective off, 0.5 halves it.

    Args:
        schedule: the schedule behind the gate; its steps count from the gate's last opening, and from the beginning
            where a closed gate leaves something of it (`closed` above 0).
        metric: name of an observed metric, e.g. `cosine`.
        above: bound that the metric must exceed; None: none. At least one bound is needed.
        below: bound that the metric must stay under; None: none.
        latch: whether an open gate stays open.
        closed: factor on the schedule's weight while the gate is closed.
        hysteresis: how far beyond a bound the metric must go to close an open gate.
    """

    def __init__(
        self,
        schedule: Schedule,
        metric: str,
        above: Finite | None = None,
        below: Finite | None = None,
        latch: bool = False,
        closed: NonNegative = 0.0,
        hysteresis: NonNegative = 0.0,
    ):
        refuse_bounds("objectives.<name>.weight", metric, above, below)
        self.schedule, self.metric, self.above, self.below, self.latch = schedule, metric, above, below, latch
        self.closed, self.hysteresis = float(closed), float(hysteresis)
        self.opened: int | None = None

    def weight(self, t: int, observed: Observed) -> float:
        slack = 0.0 if self.opened is None else self.hysteresis
        above = None if self.above is None else self.above - slack
        below = None if self.below is None else self.below + slack
        if inside(observed.get(self.metric, math.nan), above, below):
            self.opened = t if self.opened is None else self.opened
        elif not self.latch:
            self.opened = None
        factor = self.closed if self.opened is None else 1.0
        if factor == 0.0:
            return 0.0
        since = 0 if self.closed > 0 or self.opened is None else self.opened
        return factor * self.schedule.weight(t - since, observed)

    def metrics(self) -> set[str]:
        return {self.metric} | self.schedule.metrics()

    def state(self) -> dict[str, Any]:
        return {"opened": self.opened, "schedule": self.schedule.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.opened = state["opened"]
        self.schedule.load_state(state["schedule"])


@dataclass(frozen=True)
class Period:
    """Describes a part of the run.

    Which groups can get a gradient follows from the objectives that count in the period (`Objective.reaches`); `trains`
    is for holding a group that could.

    Args:
        name: the period's name, e.g. `latents`, `adaptation`.
        share: share of all steps, in relation to the other periods' shares.
        ratio: compression in this period (a ratio curriculum starts at 4); None: the run's own, that is evaluated.
            Tokens over the ratio are slots in all, private ones included.
        codes: codes per slot in this period (codec fsq with spare ones); None: those that are sent.
        trains: groups that move (`encoder`, `adapter`, `injector`, `codec`, `head`, `lora`, or one exactly:
            `adapter:<lm>`); None: all.
        weights: the objectives that count in this period, each with a factor on its own weight: a number, or a schedule
            whose steps count from the period's beginning. Objectives that are not named weigh 0. None: all count.
        group_lr: learning rates in this period by group or kind, in place of the run's; groups that are not named keep
            theirs.
        lr_schedule: factor on all learning rates over this period's own steps, `constant` or `cosine`, with
            `warmup_steps`; None: the run's schedule goes on.
        batch_size: number of contexts in a batch of this period; None: `loader.batch_size`. The loader makes as many as
            the largest period wants; in a smaller one the rest of a batch is left unread.
        refit: whether the period begins with a new start of what injectors have behind their adapters (the keys and
            values of `deep_prefix`), from training texts as at the very beginning: after a period that moved the
            latents and did not reach it.
        advance: what ends the period early; the steps that are left go to the later ones, by their shares.
        require: what the metric must fulfil at any step from `after` on, and once observed; otherwise the run ends with
            a `StageFailed`.
    """

    name: str
    share: Positive = 1.0
    ratio: Multiple | None = None
    trains: Annotated[list[str], NOT_EMPTY] | None = None
    codes: Layers | None = None
    weights: Annotated[dict[str, NonNegative | Schedule], NOT_EMPTY] | None = None
    group_lr: dict[str, HeldRate] | None = None
    lr_schedule: LRSchedule | None = None
    batch_size: Count | None = None
    refit: bool = False
    advance: Criterion | None = None
    require: Criterion | None = None

    def moves(self, group: str) -> bool:
        """Tell whether a parameter group is trained in this period."""
        return self.trains is None or group in self.trains or group.partition(":")[0] in self.trains

    def rate(self, group: str) -> float | None:
        """Return the period's own learning rate of a parameter group; None: the run's."""
        own = self.group_lr or {}
        return own.get(group, own.get(group.partition(":")[0]))

    def factors(self) -> dict[str, Schedule] | None:
        """Return `weights` as schedules over the period's steps, None where it has none."""
        if self.weights is None:
            return None
        return {name: w if isinstance(w, Schedule) else Constant(w) for name, w in self.weights.items()}


class Curriculum:
    """Divides a number of committed steps into periods, in order.

    Raises:
        UserError: no period, equal names, a criterion that would be asked after the period's end, or a last period
            that trains at another ratio or with other codes than are evaluated.
    """

    def __init__(self, periods: Sequence[Period], steps: int):
        names = [p.name for p in periods]
        if not periods or len(set(names)) != len(names):
            raise UserError(
                "stages", str(names), "at least one, with different names", "set stages.<n>.name to another name"
            )
        last = periods[-1]
        for key, value, sent in (("ratio", last.ratio, "wire.ratio"), ("codes", last.codes, "codec.codes")):
            if value is not None:
                raise UserError(
                    f"stages.{len(periods) - 1}.{key}",
                    f"{value} in the last stage",
                    f"null: {sent} is what is evaluated",
                    f"set stages.{len(periods) - 1}.{key}=null and {sent}={value:g}",
                )
        self.periods, self.steps = list(periods), steps
        self.ends = self.plan(0, 0)
        for n, (period, start, end) in enumerate(zip(periods, [0, *self.ends], self.ends, strict=False)):
            latest = end - start - (period is last)  # asked before a step, and nothing follows the last one
            for key, asked in (("advance", period.advance), ("require", period.require)):
                if asked is not None and asked.after > latest:
                    raise UserError(
                        f"stages.{n}.{key}.after ({period.name})",
                        f"{asked.after} in a stage of {end - start} steps",
                        f"{latest} at most, or it would never be asked",
                        f"set stages.{n}.{key}.after={max(1, latest // 2)}, or a larger trainer.max_epochs",
                    )

    def plan(self, first: int, start: int) -> list[int]:
        """Return the first step after each period, where period number `first` begins at step `start`.

        What is left of the steps is divided by the shares of the periods that are left; the earlier ones end at
        `start`.
        """
        left = self.periods[first:]
        total, done = sum(p.share for p in left), 0.0
        ends = [start] * first
        for period in left:
            done += period.share
            ends.append(start + round((self.steps - start) * done / total))
        ends[-1] = max(ends[-1], self.steps)
        return ends

    def at(self, t: int) -> Period:
        """Return the period that step t belongs to; the last one beyond the end."""
        return next((p for p, end in zip(self.periods, self.ends, strict=True) if t < end), self.periods[-1])


def slots_for(tokens: float, ratio: float) -> int:
    """Return M for a text of so many tokens at a compression ratio: round(tokens / ratio), at least 1."""
    return max(1, round(tokens / ratio))


def _progress(t: int, start: int, steps: int) -> float:
    return min(1.0, max(0.0, (t - start) / steps)) if steps else float(t >= start)
