"""Named studies of asgml: tables of configurations over seeds, resumable, with tests and a report at the end.

    python -m asgml.study demo                    # `make demo`; further overrides go to every run
    python -m asgml.study faults                  # what each fault of earlier code costs
    python -m asgml.study settle --data FOLDER    # equal tuning and ten seeds on every data set
    python -m asgml.study phases --data FOLDER    # how long each modality takes to be learned
    python -m asgml.study cremad --data FOLDER plan=true    # rows, runs and hours; nothing runs
    # without plan=true the study itself; ave and kinetics_sounds likewise

What settle, phases, cremad, ave and kinetics_sounds run stands in `conf/asgml/<study>.yaml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asgml.faults.pairs import rows
from asgml.run import PROGRAM
from suite.runs.study import Command, Program, Study, main

if TYPE_CHECKING:
    from suite.report import RunRecord

DECLARED = ("settle", "phases", "cremad", "ave", "kinetics_sounds")
ASGML = ("asgml_staleness", "asgml_frequency", "asgml_adaptive")


def faults_page(runs: Sequence[RunRecord]) -> Path:
    """Write the page of the faults."""
    from asgml.faults.page import write_page

    return write_page(runs)


@dataclass(frozen=True)
class Late:
    """The study that `conf/asgml/<name>.yaml` declares, imported when it is asked for: help needs none of it."""

    name: str

    @property
    def schema(self) -> type:
        """The dataclass of its configuration."""
        from asgml.tune.options import StudyTree

        return StudyTree

    def __call__(self, program: Program, words: Sequence[str]) -> int:
        """Run it (`asgml.tune.studies.Declared`)."""
        from asgml.tune.studies import Declared

        return Declared(self.name)(program, words)


STUDIES: dict[str, Study | Command] = {
    "demo": Study("cremad_mini", (0, 1), tuple((f"method={m}",) for m in ("joint", "ogm_ge", *ASGML))),
    "faults": Study("cremad_mini", (0, 1, 2, 3, 4), rows(), faults_page),
    **{name: Late(name) for name in DECLARED},
}


if __name__ == "__main__":
    main(PROGRAM, STUDIES, __doc__)
