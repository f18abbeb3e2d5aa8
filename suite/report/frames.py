"""Runs grouped over seeds into configurations, and their curves as mean and band."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

import numpy as np

from callbacks.errors import UserError
from suite.report.data import Run, Series
from suite.report.labels import is_neutral, labels

Axis = Literal["epoch", "step", "updates", "seconds"]
AXES: dict[Axis, str] = {
    "epoch": "epochs",
    "step": "committed optimiser steps",
    "updates": "encoder updates (mean over encoders)",
    "seconds": "training time (s)",
}
MAX_SHOWN = 8  # configurations with panels of their own
MAX_POINTS = 1500


@dataclass(frozen=True)
class Band:
    """A curve over seeds: arrays (n,) of x, mean, smallest and largest value; `seeds` that contribute."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


@dataclass
class Configuration:
    """Runs that differ only in their seed, ascending in seed; `runs` holds the newest run of every seed."""

    label: str
    runs: list[Run]
    replaced: int = 0

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.finished]

    @property
    def curves(self) -> list[Run]:
        """The runs whose curves are drawn: the finished ones, or all while none has finished."""
        return self.finished or self.runs

    def count(self, status: str) -> int:
        return sum(run.status == status for run in self.runs)


@dataclass
class RunFrames:
    """The runs of one experiment of one program, grouped; what every section and table is built from.

    `baseline` is the label of the row that others are compared with, None where there is none.
    """

    program: str
    experiment: str
    configurations: list[Configuration]
    baseline: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        return [run for configuration in self.configurations for run in configuration.runs]

    @property
    def single(self) -> bool:
        return len(self.configurations) == 1

    @property
    def base(self) -> Configuration | None:
        return next((c for c in self.configurations if c.label == self.baseline), None)

    @property
    def modalities(self) -> list[str]:
        """Names seen in metrics, heads, probes or the timeline, sorted."""
        found: set[str] = set()
        for run in self.runs:
            for split in ("val", "test", "val_best", "test_best"):
                found |= {k.removeprefix("accuracy/") for k in run.result.get(split) or {} if k.startswith("accuracy/")}
            for prefix in ("val/accuracy/", "probe/accuracy/", "train/accuracy/", "cosine/"):
                found |= {k.removeprefix(prefix) for k in run.series if k.startswith(prefix)}
            if not found and run.timeline is not None:
                found |= set(run.timeline["modality"])
        return sorted(found)

    @property
    def groups(self) -> list[str]:
        """Parameter groups: the modalities, then the others (fusion)."""
        found = {k.partition("/")[2] for run in self.runs for k in run.series if k.startswith(("grad_norm/", "delta/"))}
        return [m for m in self.modalities if m in found] + sorted(found - set(self.modalities))

    def shown(self, having: Callable[[Run], bool]) -> tuple[list[Configuration], str]:
        """The configurations with data that get panels, and a sentence naming the ones left out.

        Beyond MAX_SHOWN: the baseline, then the best by *validation* accuracy.
        """
        have = [c for c in self.configurations if any(having(run) for run in c.curves)]
        lacking = [c.label for c in self.configurations if c not in have]
        sentence = f"No such data: {', '.join(lacking)}." if have and lacking else ""
        if len(have) <= MAX_SHOWN:
            return have, sentence

        def rank(c: Configuration) -> tuple[bool, float]:
            values = [v for run in c.runs if (v := run.metric("val_best", "accuracy")) is not None]
            return c.label != self.baseline, -float(np.mean(values)) if values else np.inf

        chosen = sorted(have, key=rank)[:MAX_SHOWN]
        sentence = f"Panels: {MAX_SHOWN} of {len(have)} configurations (baseline, then best validation). " + sentence
        return [c for c in have if c in chosen], sentence.strip()


def group_runs(runs: Sequence[Run], baseline: str | None = None) -> list[RunFrames]:
    """One RunFrames per (program, experiment). Labels say what differs within it; seeds are grouped under a label.

    `baseline`: label of the baseline row; default is a neutral one (joint training without a schedule) where it
    exists. Raises UserError for a baseline that no comparison has.
    """
    keys = dict.fromkeys((run.program, run.experiment) for run in runs)
    known_runs = {run.hash: f"<{run.label}>" for run in runs if run.label}
    out = []
    for program, experiment in keys:
        members = [run for run in runs if (run.program, run.experiment) == (program, experiment)]
        named = labels(
            [by_label(run.config, known_runs) | ({"label": run.label} if run.label else {}) for run in members]
        )
        frames = RunFrames(program, experiment, [])
        for label in dict.fromkeys(named):
            frames.configurations.append(
                _configuration(label, [r for r, text in zip(members, named) if text == label], frames.notes)
            )
        known = [c.label for c in frames.configurations]
        frames.baseline = baseline if baseline in known else None if baseline else next(filter(is_neutral, known), None)
        frames.configurations.sort(key=lambda c: (c.label != frames.baseline, _natural(c.label)))
        out.append(frames)
    if baseline and all(frames.baseline is None for frames in out):
        known = [c.label for frames in out for c in frames.configurations]
        raise UserError("--baseline", baseline, " | ".join(known[:20]), "give one of these labels, in quotes")
    return out


def by_label(config: Any, known: Mapping[str, str]) -> Any:
    """The configuration with the directories of labelled runs replaced by their labels: seeds that each go on from the
    run of their own seed are one configuration. `known`: hash -> label.
    """
    if isinstance(config, dict):
        return {key: by_label(value, known) for key, value in config.items()}
    if isinstance(config, list):
        return [by_label(value, known) for value in config]
    return known.get(PurePath(config).name, config) if isinstance(config, str) else config


def _configuration(label: str, runs: list[Run], notes: list[str]) -> Configuration:
    """One run per seed: the finished one, then the newest."""
    by_seed: dict[int, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, []).append(run)
    chosen = [max(same, key=lambda r: (r.finished, str(r.result.get("started") or ""))) for same in by_seed.values()]
    repeated = sorted(seed for seed, same in by_seed.items() if len(same) > 1)
    if repeated:
        notes.append(f"{label}: several runs of seed {', '.join(map(str, repeated))}; the newest finished one counts")
    return Configuration(label, sorted(chosen, key=lambda r: r.seed), len(runs) - len(chosen))


def _natural(text: str) -> list[tuple[int, float, str]]:
    """Sort key that puts tau=2 before tau=10."""
    out: list[tuple[int, float, str]] = []
    for part in text.replace("=", " ").split():
        try:
            out.append((0, float(part), ""))
        except ValueError:
            out.append((1, 0.0, part))
    return out


def band(runs: Sequence[Run], name: str, axis: Axis = "epoch", limit: int = MAX_POINTS) -> Band | None:
    """`name` over the seeds of one configuration, None where no run logged it (or none has the axis).

    Values at the same epoch (validation) or step are averaged. Where seeds were logged at different steps, each
    is interpolated linearly within its own range. A non-finite value makes the mean a gap: it is not averaged
    away.
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
    """y at the grid: exact at its own points, linear between finite neighbours, NaN next to a non-finite one."""
    with np.errstate(invalid="ignore"):
        out = np.interp(grid, x, y)
    own = np.searchsorted(grid, x)
    out[own] = y
    return out


def position(run: Run, series: Series, axis: Axis, by_epoch: bool = False) -> np.ndarray | None:
    """Where the points of a series lie on an axis, None where the run did not log what the axis needs.

    `epoch` counts completed epochs: a validation of epoch e (from 0) lies at e + 1, steps in between linearly.
    """
    if axis == "epoch" and by_epoch:
        return series.epoch + 1.0
    if axis == "step":
        return series.step.astype(float)
    table = axis_table(run, axis)
    return None if table is None else _extend(series.step.astype(float), *table)


def axis_table(run: Run, axis: Axis) -> tuple[np.ndarray, np.ndarray] | None:
    """(steps, value of the axis at these steps), both ascending from 0."""
    if axis == "epoch":
        ends = [s for name, s in run.series.items() if name.startswith("val/")]
        longest = max(ends, key=lambda s: s.step.size, default=None)
        if longest is None:
            return None
        steps, values = longest.step.astype(float), longest.epoch + 1.0
    elif axis == "seconds":
        timed = run.series.get("time/step_ms")
        if timed is None:
            return None
        steps = timed.step.astype(float)
        values = np.cumsum(np.diff(steps, prepend=0.0) * np.nan_to_num(timed.value) / 1000)
    elif axis == "updates":
        if run.timeline is None:
            return None
        moved = run.timeline[run.timeline["action"].isin(["update", "soft", "fusion"])]
        per_step = moved.groupby("step").size()
        count = max(1, run.timeline["modality"].nunique())
        steps, values = per_step.index.to_numpy(float), per_step.cumsum().to_numpy(float) / count
    else:
        raise ValueError(axis)
    steps, last = np.unique(steps[::-1], return_index=True)  # the last of equal steps
    values = values[::-1][last]
    keep = steps > 0
    return np.concatenate([[0.0], steps[keep]]), np.concatenate([[0.0], values[keep]])


def _extend(x: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Interpolation that goes on with the average slope beyond the last known point."""
    slope = ys[-1] / xs[-1] if xs[-1] > 0 else 0.0
    return np.where(x > xs[-1], ys[-1] + (x - xs[-1]) * slope, np.interp(x, xs, ys))


def thin(low: np.ndarray, high: np.ndarray, limit: int = MAX_POINTS) -> np.ndarray:
    """Indices of at most about `limit` points that keep every bin's minimum of `low`, maximum of `high`, and gaps.

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
