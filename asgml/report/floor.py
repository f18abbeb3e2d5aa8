"""What needs no training: the accuracy of one answer for every test sample, and that of guessing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asgml.report.answers import read_answers
from asgml.report.naming import metric
from suite.report.data import RunRecord
from suite.report.frames import RunFrames
from suite.report.summary import per_seed
from suite.report.tables import ABSENT, PERCENT, Cell, Column, number

ERRORS = 2.0  # standard errors of the majority's share by which a result must exceed it


@dataclass(frozen=True)
class Floor:
    """What a test split gives away.

    Attributes:
        counts: the number of test samples of each class.
    """

    counts: tuple[int, ...]

    @property
    def samples(self) -> int:
        return sum(self.counts)

    @property
    def majority(self) -> float:
        """The share of the most frequent class: no constant answer is right more often."""
        return max(self.counts) / self.samples

    @property
    def chance(self) -> float:
        """The expected accuracy of guessing all classes alike."""
        return 1 / len(self.counts)

    @property
    def margin(self) -> float:
        """ERRORS binomial standard errors of an accuracy that is the majority's share."""
        return ERRORS * math.sqrt(self.majority * (1 - self.majority) / self.samples)


def test_counts(run: RunRecord) -> tuple[int, ...] | None:
    """Return the class counts of a run's test split, from its result or else its predictions; None without either."""
    counted = (run.result.get("class_counts") or {}).get("test")
    if counted:
        return tuple(counted)
    answers = read_answers(run)
    return None if answers is None else tuple(np.bincount(answers.y, minlength=answers.classes).tolist())


def floor_of(frames: RunFrames) -> tuple[Floor | None, list[str]]:
    """Return the floor of a table and what is to be said of it first; None where no run tells its test labels."""
    found = {counts for run in frames.runs if run.finished and (counts := test_counts(run)) is not None}
    if not found:
        return None, []
    if len(found) > 1:
        return None, ["The runs were tested on different labels: these rows are not of one data set."]
    floor = Floor(found.pop())
    return floor, _verdict(frames, floor)


def _verdict(frames: RunFrames, floor: Floor) -> list[str]:
    read = [metric(split) for split in ("test", "test_best")]
    found = [list(values.values()) for c in frames.configurations for f in read if (values := per_seed(c, f))]
    top = max((float(np.mean(values)) for values in found), default=math.nan)
    share, points = f"{floor.majority * PERCENT:.2f} % of {floor.samples} test samples", floor.margin * PERCENT
    if top <= floor.majority:
        return [f"No configuration is above the majority class ({share}): one answer for all samples does as well."]
    if top <= floor.majority + floor.margin:
        return [
            f"No configuration is above the majority class ({share}) by more than {ERRORS:g} standard errors "
            f"({points:.2f} points): nothing here shows that anything was learned."
        ]
    return []


def floor_rows(head: Sequence[Column], floor: Floor | None) -> list[list[Cell]]:
    """Return the rows of the majority class and of chance: a number in every accuracy column, else a dash."""
    if floor is None:
        return []
    biggest = floor.counts.index(max(floor.counts))
    told = {
        "majority class": (floor.majority, f"class {biggest} for each of {floor.samples} test samples"),
        "chance": (floor.chance, f"each of {len(floor.counts)} classes equally often"),
    }

    def cell(column: Column, value: float, why: str) -> Cell:
        shown = number(value * PERCENT)
        return Cell(shown.text, shown.value, why) if column.title.startswith("accuracy %") else Cell(ABSENT)

    return [[Cell(name), *(cell(c, value, why) for c in head[1:])] for name, (value, why) in told.items()]
