"""The programs whose runs are reported: `<program>.report` registers what its reports are made of.

register("other", ProgramReport(sections=[Section("Sizes", sizes, "sizes in result.json"), *COMMON]))
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from suite.report.data import RunRecord
from suite.report.frames import RunFrames, Value
from suite.report.labels import Labels
from suite.report.sections import COMMON, Section
from suite.report.statements import Statement
from suite.report.tables import Table


@dataclass(frozen=True)
class ProgramReport:
    """What the reports of one program are made of.

    Attributes:
        sections: the page's sections in their order.
        tables: the builder of an experiment's summary; without one, the table of the runs' states.
        verdict: what an experiment has shown, in words; they stand above all tables.
        health: the table of what is wrong with its runs, None where nothing is; without one, only files are looked at.
        labels: the rules by which configurations are called.
        score: the number by which configurations are chosen where not all can be drawn, the highest first.
        measured_on: what of a run's tree and result says what it was measured on, a mapping of keys to values; runs
            that differ in it are not compared. None leaves an experiment in one piece.
        aside: why a run is no result to compare, e.g. `debug=overfit`; "" for any other run.
    """

    sections: Sequence[Section] = COMMON
    tables: Callable[[RunFrames], list[Table]] | None = None
    verdict: Callable[[RunFrames], list[Statement]] | None = None
    health: Callable[[RunFrames], Table | None] | None = None
    labels: Labels = field(default_factory=Labels)
    score: Value | None = None
    measured_on: Callable[[RunRecord], Mapping[str, Any]] | None = None
    aside: Callable[[RunRecord], str] | None = None


PROGRAMS: dict[str, ProgramReport] = {}


def register(program: str, report: ProgramReport) -> None:
    """Say what the reports of a program are made of."""
    PROGRAMS[program] = report


def report_of(program: str) -> ProgramReport:
    """Return what a program registered; its package `<program>.report` is imported first, where it exists."""
    if program not in PROGRAMS and importlib.util.find_spec(program) and importlib.util.find_spec(f"{program}.report"):
        importlib.import_module(f"{program}.report")
    return PROGRAMS.get(program, ProgramReport())
