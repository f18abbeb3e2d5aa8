"""The programs whose runs are reported: `<program>.report` registers what its reports are made of.

register("other", ProgramReport(sections=[Section("Sizes", sizes, "sizes in result.json"), *COMMON]))
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from suite.report.frames import RunFrames, Value
from suite.report.labels import Labels
from suite.report.sections import COMMON, Section
from suite.report.tables import Table


@dataclass(frozen=True)
class ProgramReport:
    """What the reports of one program are made of.

    Attributes:
        sections: the page's sections in their order.
        tables: the builder of an experiment's summary; without one, the table of the runs' states.
        labels: the rules by which configurations are called.
        score: the number by which configurations are chosen where not all can be drawn, the highest first.
    """

    sections: Sequence[Section] = COMMON
    tables: Callable[[RunFrames], list[Table]] | None = None
    labels: Labels = field(default_factory=Labels)
    score: Value | None = None


PROGRAMS: dict[str, ProgramReport] = {}


def register(program: str, report: ProgramReport) -> None:
    """Say what the reports of a program are made of."""
    PROGRAMS[program] = report


def report_of(program: str) -> ProgramReport:
    """Return what a program registered; its package `<program>.report` is imported first, where it exists."""
    if program not in PROGRAMS and importlib.util.find_spec(program) and importlib.util.find_spec(f"{program}.report"):
        importlib.import_module(f"{program}.report")
    return PROGRAMS.get(program, ProgramReport())
