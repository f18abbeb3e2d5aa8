"""Three axes: after how many epochs, updates and encoder passes a row has joint training's validation accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from asgml.tune.page.evidence import JOINT, Evidence, rhythm
from asgml.tune.page.passes import Passes, Work, spent, updates, work_of
from suite.report.data import RunRecord
from suite.report.frames import Configuration
from suite.report.tables import ABSENT, Cell, Table, columns, texts

ACCURACY = "val/accuracy"
TOLERANCE = 1e-9  # of an accuracy, which is a count over the samples
AXES = ("epochs", "updates", "compute")


@dataclass(frozen=True)
class Course:
    """A run's validation accuracy, (n,) over its evaluations, and what had been spent by then.

    Attributes:
        accuracy: the accuracy, 0–1.
        used: per axis what had been used, (n,), in the units of the axis.
    """

    accuracy: np.ndarray
    used: Mapping[str, np.ndarray]

    def reaches(self, target: float, axis: str) -> float | None:
        """Return what had been used when the accuracy was first at the target, None where it never was."""
        there = np.flatnonzero(self.accuracy >= target - TOLERANCE)
        return float(self.used[axis][there[0]]) if there.size else None

    def best_within(self, budget: float, axis: str) -> float | None:
        """Return the best accuracy of the evaluations within a budget, None where there is none."""
        within = self.used[axis] <= budget * (1 + TOLERANCE)
        return float(self.accuracy[within].max()) if within.any() else None


def course(run: RunRecord, work: Work, encoders: Mapping[str, Passes]) -> Course | None:
    """Return the course of a run, None where it has no curve or no timeline; without `encoders` compute is left out."""
    curve, timeline = run.series.get(ACCURACY), run.timeline
    if curve is None or timeline is None:
        return None
    used = {"epochs": curve.epoch + 1.0, "updates": updates(timeline).reindex(curve.step).to_numpy(float)}
    if encoders:
        used["compute"] = spent(timeline, work, encoders).reindex(curve.step).to_numpy(float)
    return Course(curve.value, used)


@dataclass(frozen=True)
class Courses:
    """The courses of all rows of a data set.

    Attributes:
        evidence: the data set.
        encoders: what every encoder costs, {} where that is not known.
        unknown: why it is not.
    """

    evidence: Evidence
    encoders: Mapping[str, Passes]
    unknown: str = ""

    @cached_property
    def of(self) -> dict[str, dict[int, Course]]:
        """The courses by row and seed."""
        return {name: self._of(c) for name, c in self.evidence.rows.items()}

    def _of(self, c: Configuration) -> dict[int, Course]:
        first = c.finished[0]
        work = work_of(first.config["methods"], rhythm(first))
        found = {run.seed: course(run, work, self.encoders) for run in c.finished}
        return {seed: one for seed, one in found.items() if one is not None}

    @cached_property
    def targets(self) -> dict[int, float]:
        """Joint training's validation accuracy at its best epoch, by seed."""
        runs = self.evidence.runs(JOINT)
        return {seed: v for seed, run in runs.items() if (v := run.metric("val_best", "accuracy")) is not None}

    def total(self, axis: str, seed: int) -> float:
        """Return what joint training of a seed used in all."""
        return float(self.of[JOINT][seed].used[axis][-1])

    def reached(self, row: str, axis: str) -> dict[int, float | None]:
        """Return the share of joint training's total at which a row first has the target, by common seed."""
        common = [s for s in self.of[row] if s in self.of.get(JOINT, {}) and s in self.targets]
        return {
            s: None if (used := self.of[row][s].reaches(self.targets[s], axis)) is None else used / self.total(axis, s)
            for s in common
            if axis in self.of[row][s].used
        }

    def whole(self, row: str, axis: str) -> float | None:
        """Return what the whole runs of a row use over what joint training uses: the median over common seeds."""
        common = [s for s, one in self.of[row].items() if s in self.of.get(JOINT, {}) and axis in one.used]
        shares = [float(self.of[row][s].used[axis][-1]) / self.total(axis, s) for s in common]
        return float(np.median(shares)) if shares else None


def spread(values: Sequence[float]) -> str:
    """Return `0.53 (0.40–0.67)`, the median with the range; a dash without values."""
    if not values:
        return ABSENT
    return f"{np.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def axes_table(courses: Courses) -> Table:
    """Show per row the shares of joint training's epochs, updates and compute at which it has joint's accuracy."""
    rows = []
    for name in courses.evidence.rows:
        found = {axis: courses.reached(name, axis) for axis in AXES}
        there = {axis: [v for v in by_seed.values() if v is not None] for axis, by_seed in found.items()}
        n, hits = len(found["epochs"]), len(there["epochs"])
        whole = courses.whole(name, "compute")
        state = ABSENT if not n else f"{hits} of {n}"
        cells = [Cell(state), *(Cell(spread(there[axis])) for axis in AXES)]
        rows.append([*texts(name), *cells, Cell(ABSENT if whole is None else f"{whole:.2f}")])
    head = columns("row", numbers=["seeds that\nreach it", *AXES, "compute of\na whole run"])
    notes = []
    if courses.encoders:
        total = sum(e.forward + e.backward for e in courses.encoders.values())
        shares = [
            f"{m} {(e.forward + e.backward) / total:.1%} (backward {e.backward / e.forward:.2f} forwards)"
            for m, e in courses.encoders.items()
        ]
        notes.append(f"A step's operations are those of {', '.join(shares)}.")
    else:
        notes.append(f"Compute is not counted: {courses.unknown}")
    return Table(f"Three axes on {courses.evidence.name}", head, rows, notes).without_empty()
