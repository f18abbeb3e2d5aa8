"""What is trained when: weights of objectives over steps, and the stages of a run. Pure functions of committed steps
and observed metrics; no state but that of a gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from callbacks.errors import UserError

Observed = Mapping[str, float]


class Schedule:
    """Weight of an objective at committed step t, given what was observed up to step t - 1."""

    def weight(self, t: int, observed: Observed) -> float:
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Plain values to remember over a restart."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state`."""


class Constant(Schedule):
    """w(t) = value."""

    def __init__(self, value: float = 1.0):
        self.value = _not_negative("value", value)

    def weight(self, t: int, observed: Observed) -> float:
        return self.value


class Delayed(Schedule):
    """w(t) = 0 for t < start, then value."""

    def __init__(self, start: int, value: float = 1.0):
        self.start, self.value = _steps("start", start), _not_negative("value", value)

    def weight(self, t: int, observed: Observed) -> float:
        return self.value if t >= self.start else 0.0


class Linear(Schedule):
    """From `first` (until `start`) to `last` (from `start + steps` on) in a straight line."""

    def __init__(self, first: float, last: float, steps: int, start: int = 0):
        self.first, self.last = _not_negative("first", first), _not_negative("last", last)
        self.steps, self.start = _steps("steps", steps), _steps("start", start)

    def weight(self, t: int, observed: Observed) -> float:
        return self.first + (self.last - self.first) * _progress(t, self.start, self.steps)


class Cosine(Schedule):
    """Like `Linear`, along half a cosine: flat at both ends."""

    def __init__(self, first: float, last: float, steps: int, start: int = 0):
        self.first, self.last = _not_negative("first", first), _not_negative("last", last)
        self.steps, self.start = _steps("steps", steps), _steps("start", start)

    def weight(self, t: int, observed: Observed) -> float:
        done = 0.5 - 0.5 * math.cos(math.pi * _progress(t, self.start, self.steps))
        return self.first + (self.last - self.first) * done


class PeakAndDecay(Schedule):
    """0 -> peak in `rise` steps (straight), `hold` steps there, -> floor in `decay` steps (half a cosine)."""

    def __init__(self, peak: float = 1.0, rise: int = 0, hold: int = 0, decay: int = 1, floor: float = 0.0):
        self.peak, self.floor = _not_negative("peak", peak), _not_negative("floor", floor)
        self.rise, self.hold, self.decay = _steps("rise", rise), _steps("hold", hold), _steps("decay", decay)

    def weight(self, t: int, observed: Observed) -> float:
        if t < self.rise:
            return self.peak * t / self.rise
        done = 0.5 - 0.5 * math.cos(math.pi * _progress(t, self.rise + self.hold, self.decay))
        return self.peak + (self.floor - self.peak) * done


class Gated(Schedule):
    """Another schedule, only while a metric allows it: 0 until the metric was observed, and outside its bounds.

    Args:
        schedule: its steps count from the gate's last opening.
        metric: an observed name, e.g. `cosine`.
        above, below: the metric must be greater, less; at least one.
        latch: once open, it stays open.
    """

    def __init__(
        self,
        schedule: Schedule,
        metric: str,
        above: float | None = None,
        below: float | None = None,
        latch: bool = False,
    ):
        if above is None and below is None:
            raise UserError("curriculum Gated", "neither above nor below", "a bound", "set above or below")
        self.schedule, self.metric, self.above, self.below, self.latch = schedule, metric, above, below, latch
        self.opened: int | None = None

    def weight(self, t: int, observed: Observed) -> float:
        value = observed.get(self.metric, math.nan)
        allowed = (self.above is None or value > self.above) and (self.below is None or value < self.below)
        allowed = allowed and not math.isnan(value)
        if not allowed and not (self.latch and self.opened is not None):
            self.opened = None
            return 0.0
        if self.opened is None:
            self.opened = t
        return self.schedule.weight(t - self.opened, observed)

    def state(self) -> dict[str, Any]:
        return {"opened": self.opened, "schedule": self.schedule.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.opened = state["opened"]
        self.schedule.load_state(state["schedule"])


@dataclass(frozen=True)
class Stage:
    """A part of the run.

    Args:
        name: e.g. `latents`, `adaptation`.
        share: of all steps, in relation to the other stages' shares.
        ratio: compression in this stage (a ratio curriculum starts at 4); None: the run's own, that is evaluated.
        codes: codes per slot in this stage (codec fsq with spare ones); None: those that are sent.
        trains: groups that move (`encoder`, `adapter`, `injector`, `codec`, `head`, `lora`, or one exactly:
            `adapter:<lm>`); None: all.
    """

    name: str
    share: float = 1.0
    ratio: float | None = None
    trains: list[str] | None = None
    codes: int | None = None

    def moves(self, group: str) -> bool:
        """Whether a parameter group is trained in this stage."""
        return self.trains is None or group in self.trains or group.partition(":")[0] in self.trains


class Plan:
    """The stages in order over a number of committed steps.

    Raises:
        UserError: no stage, equal names, a share that is not positive, a ratio below 1.
    """

    def __init__(self, stages: Sequence[Stage], steps: int):
        names = [s.name for s in stages]
        if not stages or len(set(names)) != len(names):
            raise UserError("stages", str(names), "at least one, with different names", "correct curriculum stages")
        for stage in stages:
            if stage.share <= 0 or (stage.ratio is not None and stage.ratio < 1):
                raise UserError(
                    f"stage {stage.name}",
                    f"share {stage.share}, ratio {stage.ratio}",
                    "a positive share and a ratio of at least 1",
                    "correct the stage",
                )
        if stages[-1].ratio is not None:
            raise UserError(
                f"stage {stages[-1].name}",
                f"ratio {stages[-1].ratio} in the last stage",
                "null: the ratio that is evaluated",
                "leave ratio out of the last stage, and set wire.ratio",
            )
        if stages[-1].codes is not None:
            raise UserError(
                f"stage {stages[-1].name}",
                f"codes {stages[-1].codes} in the last stage",
                "null: as many as are sent",
                "leave codes out of the last stage, and set codec.codes",
            )
        self.stages = list(stages)
        total, done = sum(s.share for s in stages), 0.0
        self.ends: list[int] = []  # first step after each stage
        for stage in stages:
            done += stage.share
            self.ends.append(round(steps * done / total))
        self.ends[-1] = max(self.ends[-1], steps)

    def at(self, t: int) -> int:
        """Index of the stage that step t belongs to; the last one beyond the end."""
        return next((i for i, end in enumerate(self.ends) if t < end), len(self.stages) - 1)


def slots_for(tokens: float, ratio: float) -> int:
    """M for a text of so many tokens at a compression ratio: round(tokens / ratio), at least 1."""
    return max(1, round(tokens / ratio))


def _progress(t: int, start: int, steps: int) -> float:
    return min(1.0, max(0.0, (t - start) / steps)) if steps else float(t >= start)


def _not_negative(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise UserError(f"curriculum {name}", str(value), "0 or a positive number", "correct the weight")
    return float(value)


def _steps(name: str, value: int) -> int:
    if value < 0:
        raise UserError(f"curriculum {name}", str(value), "0 or more steps", "correct the number of steps")
    return value
