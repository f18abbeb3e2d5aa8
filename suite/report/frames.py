"""Configurations, which are runs over seeds, and their curves as mean and band."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from suite.report.data import RunRecord, Series

MAX_SHOWN = 8  # configurations with panels of their own
MAX_POINTS = 1500
Points: TypeAlias = tuple[np.ndarray, np.ndarray]
Value: TypeAlias = Callable[[RunRecord], float | None]


@dataclass(frozen=True)
class Band:
    """A curve over seeds.

    Attributes:
        x: (n,) the positions on the axis.
        mean, low, high: (n,) the mean, the smallest and the largest value over the seeds.
        seeds: the number of seeds that contribute.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


@dataclass(frozen=True)
class Axis:
    """What a curve is drawn over.

    Attributes:
        title: the axis's title, with its unit.
        short: the word on its button.
        points: the reader of a run's steps and the axis's values there; None where the run did not log them.
    """

    title: str
    short: str
    points: Callable[[RunRecord], Points | None]

    def table(self, run: RunRecord) -> Points | None:
        """Return steps and values, both ascending from 0; of equal steps the last one."""
        found = self.points(run)
        if found is None:
            return None
        steps, last = np.unique(found[0][::-1], return_index=True)
        values = found[1][::-1][last]
        keep = steps > 0
        return np.concatenate([[0.0], steps[keep]]), np.concatenate([[0.0], values[keep]])


def _epochs(run: RunRecord) -> Points | None:
    ends = [s for name, s in run.series.items() if name.startswith("val/")]
    longest = max(ends, key=lambda s: s.step.size, default=None)
    return None if longest is None else (longest.step.astype(float), longest.epoch + 1.0)


def _seconds(run: RunRecord) -> Points | None:
    timed = run.series.get("time/step_ms")
    if timed is None:
        return None
    steps = timed.step.astype(float)
    return steps, np.cumsum(np.diff(steps, prepend=0.0) * np.nan_to_num(timed.value) / 1000)


def _steps(run: RunRecord) -> Points:
    return np.ones(1), np.ones(1)  # and so on: every step lies at itself


EPOCHS = Axis("epochs", "epochs", _epochs)
STEPS = Axis("committed optimiser steps", "steps", _steps)
SECONDS = Axis("training time (s)", "time", _seconds)


@dataclass
class Configuration:
    """Runs that differ only in their seed, ascending in seed; `runs` holds the newest run of every seed."""

    label: str
    runs: list[RunRecord]

    @property
    def finished(self) -> list[RunRecord]:
        return [run for run in self.runs if run.finished]

    @property
    def curves(self) -> list[RunRecord]:
        """The runs whose curves are drawn: the finished ones, or all while none has finished."""
        return self.finished or self.runs

    def count(self, status: str) -> int:
        return sum(run.status == status for run in self.runs)


@dataclass
class RunFrames:
    """The runs of one experiment of one program on the same data, grouped: what sections and tables are built from.

    Attributes:
        program, experiment: the program's and the experiment's name.
        part: what tells these runs' data from those of the experiment's other runs, "" where all have the same.
        configurations: the runs grouped over seeds, the baseline first.
        score: the number by which configurations are chosen where not all can be drawn, the highest first.
        baseline: the label of the row that others are compared with, None where there is none.
        notes: what a reader must know about the grouping.
    """

    program: str
    experiment: str
    configurations: list[Configuration]
    score: Value | None = None
    baseline: str | None = None
    notes: list[str] = field(default_factory=list)
    part: str = ""

    @property
    def title(self) -> str:
        """The experiment's name, and where needed the data's."""
        return f"{self.experiment} ({self.part})" if self.part else self.experiment

    @property
    def runs(self) -> list[RunRecord]:
        return [run for configuration in self.configurations for run in configuration.runs]

    @property
    def single(self) -> bool:
        return len(self.configurations) == 1

    @property
    def base(self) -> Configuration | None:
        return next((c for c in self.configurations if c.label == self.baseline), None)

    @property
    def baseline_rows(self) -> set[int]:
        """The number of the baseline's row, none where there is nothing to compare it with."""
        return {i for i, c in enumerate(self.configurations) if c is self.base and not self.single}

    def shown(self, having: Callable[[RunRecord], bool]) -> tuple[list[Configuration], str]:
        """Return the configurations with data that get panels, and a sentence naming the ones left out.

        Beyond MAX_SHOWN: the baseline, then the best by the program's score, then the first.
        """
        have = [c for c in self.configurations if any(having(run) for run in c.curves)]
        lacking = [c.label for c in self.configurations if c not in have]
        sentence = f"Without these data: {', '.join(lacking)}." if have and lacking else ""
        if len(have) <= MAX_SHOWN:
            return have, sentence
        score = self.score

        def rank(c: Configuration) -> tuple[bool, float]:
            values = [v for run in c.runs if score is not None and (v := score(run)) is not None]
            return c.label != self.baseline, -float(np.mean(values)) if values else np.inf

        chosen = sorted(have, key=rank)[:MAX_SHOWN]
        rest = "first ones" if score is None else "best ones in validation"
        panels = f"Panels show {MAX_SHOWN} of {len(have)} configurations: the baseline, then the {rest}."
        return [c for c in have if c in chosen], f"{panels} {sentence}".strip()


def band(runs: Sequence[RunRecord], name: str, axis: Axis = EPOCHS, limit: int = MAX_POINTS) -> Band | None:
    """Return `name` over the seeds of one configuration, None where no run logged it (or none has the axis).

    Values at the same epoch (validation) or step are averaged. Where seeds were logged at different steps, each is
    interpolated linearly within its own range. A non-finite value makes the mean a gap: it is not averaged away.
    """
    found = [(run, run.series[name]) for run in runs if name in run.series and run.series[name].value.size]
    if not found:
        return None
    by_epoch = name.startswith("val/") and all(np.unique(s.epoch).size == s.epoch.size for _, s in found)
    keys = [(s.epoch if by_epoch else s.step).astype(float) for _, s in found]
    xs = [position(run, s, axis, by_epoch) for run, s in found]
    usable = [i for i, x in enumerate(xs) if x is not None]
    if not usable:
        return None
    grid = np.unique(np.concatenate([keys[i] for i in usable]))
    y = np.stack([_at(grid, keys[i], found[i][1].value) for i in usable])
    x = np.stack([_at(grid, keys[i], x_i) for i in usable if (x_i := xs[i]) is not None])
    there = np.stack([(grid >= keys[i][0]) & (grid <= keys[i][-1]) for i in usable])
    total = np.where(there, y, 0.0).sum(0) / there.sum(0)
    low, high = np.where(there, y, np.inf).min(0), np.where(there, y, -np.inf).max(0)
    bad = ~np.isfinite(total)
    low, high = np.where(bad, np.nan, low), np.where(bad, np.nan, high)
    at = np.where(there, x, 0.0).sum(0) / there.sum(0)
    keep = thin(low, high, limit)
    return Band(at[keep], np.where(bad, np.nan, total)[keep], low[keep], high[keep], len(usable))


def _at(grid: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return y at the grid: exact at its own points, linear between finite ones, NaN next to a non-finite one."""
    with np.errstate(invalid="ignore"):
        out = np.interp(grid, x, y)
    own = np.searchsorted(grid, x)
    out[own] = y
    return out


def position(run: RunRecord, series: Series, axis: Axis, by_epoch: bool = False) -> np.ndarray | None:
    """Return where the points of a series lie on an axis, None where the run did not log what the axis needs.

    Epochs count completed ones: a validation of epoch e (from 0) lies at e + 1, steps in between linearly.
    """
    if axis is EPOCHS and by_epoch:
        return series.epoch + 1.0
    table = axis.table(run)
    return None if table is None else _extend(series.step.astype(float), *table)


def _extend(x: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Interpolate; beyond the last known point go on with the average slope."""
    slope = ys[-1] / xs[-1] if xs[-1] > 0 else 0.0
    return np.where(x > xs[-1], ys[-1] + (x - xs[-1]) * slope, np.interp(x, xs, ys))


def thin(low: np.ndarray, high: np.ndarray, limit: int = MAX_POINTS) -> np.ndarray:
    """Choose at most about `limit` points that keep every bin's minimum of `low`, maximum of `high`, and gaps.

    Peaks survive, so a thinned curve shows the same range as the full one.
    """
    n = low.size
    if n <= limit:
        return np.arange(n)
    bins = np.array_split(np.arange(1, n - 1), max(1, (limit - 2) // 3))
    keep = [0, n - 1]
    for part in bins:
        known = np.isfinite(low[part]) & np.isfinite(high[part])
        if known.any():
            keep += [int(part[np.where(known, low[part], np.inf).argmin()])]
            keep += [int(part[np.where(known, high[part], -np.inf).argmax()])]
        if not known.all():
            keep.append(int(part[~known][0]))
    return np.unique(keep)
