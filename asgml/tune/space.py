"""Where trials lie: ranges of knobs, and the points of a row, all from one quasi-random sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from pydantic import ConfigDict
from scipy.stats import qmc

from callbacks.ranges import Finite, Positive

MAX_KNOBS = 2
Setting = float | int | str | bool
Point = dict[str, Setting]  # dotted key -> value


@dataclass(frozen=True)
class Range:
    """Where the values of a knob lie; exactly one of the three is given.

    Attributes:
        log: the two ends between which the logarithm is uniform.
        uniform: the two ends between which the value is uniform.
        choice: the values, all equally likely.

    Raises:
        ValueError: none of them, several, or ends in the wrong order.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    log: tuple[Positive, Positive] | None = None
    uniform: tuple[Finite, Finite] | None = None
    choice: tuple[Setting, ...] | None = field(default=None)

    def __post_init__(self) -> None:
        given = [name for name in ("log", "uniform", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"one of log, uniform and choice, not {', '.join(given) or 'none of them'}")
        ends = self.log or self.uniform
        if ends and not ends[0] < ends[1]:
            raise ValueError(f"{given[0]}: [{ends[0]}, {ends[1]}] does not ascend")
        if self.log and self.log[0] <= 0:
            raise ValueError(f"log: {self.log[0]} is not above 0")
        if self.choice is not None and not self.choice:
            raise ValueError("choice: no value")

    def at(self, u: float) -> Setting:
        """Return the value at a place in [0, 1); numbers with three significant digits."""
        if self.choice is not None:
            return self.choice[min(int(u * len(self.choice)), len(self.choice) - 1)]
        if self.log is not None:
            low, high = math.log(self.log[0]), math.log(self.log[1])
            return rounded(math.exp(low + u * (high - low)))
        assert self.uniform is not None
        return rounded(self.uniform[0] + u * (self.uniform[1] - self.uniform[0]))

    def __str__(self) -> str:
        if self.choice is not None:
            return "{" + ", ".join(map(str, self.choice)) + "}"
        ends = self.log or self.uniform
        assert ends is not None
        return f"[{ends[0]:.3g}, {ends[1]:.3g}]{' log' if self.log else ''}"


def rounded(value: float) -> float:
    """Return a number with three significant digits, as tables show it and command lines repeat it."""
    return float(f"{value:.3g}")


def around(value: float, factors: tuple[float, float]) -> Range:
    """Return the log-uniform range of a learning rate from `factors[0]` to `factors[1]` times its value."""
    return Range(log=(value * factors[0], value * factors[1]))


def ends(ranges: Mapping[str, Range]) -> list[Point]:
    """Return points that together set every key to both ends of its range, or to each of its choices."""
    values = {key: at.choice or at.log or at.uniform or () for key, at in ranges.items()}
    many = max(map(len, values.values()), default=0)
    return [{key: listed[min(i, len(listed) - 1)] for key, listed in values.items()} for i in range(many)]


def draws(count: int, seed: int) -> np.ndarray:
    """Return `count` points of a scrambled Halton sequence, (count, 1 + MAX_KNOBS) in [0, 1).

    The first column belongs to the learning rate, the others to the knobs. The points depend on the seed alone, and the
    first of many are the few: more trials go on where fewer have ended.
    Source: Owen (2017), A randomized Halton algorithm in R, as in `scipy.stats.qmc`.
    """
    return qmc.Halton(1 + MAX_KNOBS, scramble=True, seed=np.random.default_rng(seed)).random(count)


def points(trials: int, lr: tuple[str, Range], knobs: Mapping[str, Range], seed: int) -> list[Point]:
    """Return the points of a row's trials.

    The first sets nothing: the row as it is published or configured. The learning rates of the others are the same for
    every row.

    Args:
        trials: the number of trials, the first one included.
        lr: the key of the learning rate, and its range.
        knobs: the row's own knobs, by dotted key, at most `MAX_KNOBS`.
        seed: the seed of the sequence.

    Raises:
        ValueError: no trial, or too many knobs.
    """
    if trials < 1:
        raise ValueError(f"{trials} trials: at least one")
    if len(knobs) > MAX_KNOBS:
        raise ValueError(f"{len(knobs)} knobs: at most {MAX_KNOBS}, which the same number of trials can search")
    ranges = dict([lr, *knobs.items()])
    return [
        {},
        *({key: at.at(float(u)) for (key, at), u in zip(ranges.items(), row)} for row in draws(trials - 1, seed)),
    ]
