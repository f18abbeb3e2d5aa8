"""The study of the feedback system as one command: every part, the shares, and the page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from callbacks.errors import UserError
from callbacks.files.atomic import write_text
from suite.runs.command import command
from suite.runs.launch import worse
from suite.runs.study import Program, Study, run_study

if TYPE_CHECKING:
    from suite.report import RunRecord

PAGE, VARIANTS, GRID = "feedback.md", "variants", "grid_digit"


@dataclass(frozen=True)
class Part:
    """One table of the study.

    Attributes:
        name: its name; its runs lie in `feedback_<name>`.
        study: its rows.
        program: the program that runs them.
        data: what it reads below the folder of real data; "" for what renders itself.
        names_data: the key that says where that lies.
    """

    name: str
    study: Study
    program: Program
    data: str = ""
    names_data: str = ""


class Whole:
    """Runs every part of the study, measures the shares, and writes the page; started again, only what is missing.

    Overrides go to the runs of the study's own program. A part whose data are not there is left out, and the page says
    so.

    Args:
        parts: the parts, in their order.
    """

    def __init__(self, parts: Sequence[Part]):
        self.parts = list(parts)

    def __call__(self, program: Program, words: Sequence[str]) -> int:
        """Return the most severe exit code of a run."""

        @command
        def main(argv: Sequence[str] | None = None) -> int:
            parser = argparse.ArgumentParser(prog=f"python -m {program.name}.study feedback")
            data = ", ".join(part.data for part in self.parts if part.data)
            parser.add_argument("--data", type=Path, default=Path("data"), help=f"the folder that has {data}")
            parser.add_argument("--out", type=Path, default=Path("docs/results"), help="the folder of the page")
            parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of the runs")
            parser.add_argument("--seeds", type=int, help="the number of seeds of every row, in place of three")
            parser.add_argument("overrides", nargs="*", help="overrides that go to every run of the feedback system")
            given = parser.parse_intermixed_args(argv)
            if given.seeds is not None and given.seeds < 1:
                raise UserError("--seeds", str(given.seeds), "1 or more", "--seeds 3")
            return self.run(program, given.data, given.out, given.runs, given.seeds, given.overrides)

        return main(list(words))

    def run(
        self, program: Program, data: Path, out: Path, runs: Path, seeds: int | None, overrides: Sequence[str]
    ) -> int:
        """Run the parts, and write the page.

        Args:
            program: the study's own program.
            data: the folder of real data.
            out: the folder of the page.
            runs: the folder of the runs.
            seeds: the number of seeds, None as the parts have them.
            overrides: the overrides of every run of the study's own program.
        """
        from asgml.feedback.page.scale import figure
        from asgml.feedback.page.shares import measured_shares
        from asgml.feedback.page.text import FIGURE, page

        found: dict[str, Sequence[RunRecord]] = {}
        skipped: dict[str, str] = {}
        code = 0
        for part in self.parts:
            place = data / part.data
            if part.data and not place.exists():
                skipped[part.name] = f"no {part.data} in the folder given as `--data`"
                print(f"{part.name} is left out: no {place}; give its folder with --data FOLDER")
                continue
            study = part.study if seeds is None else replace(part.study, seeds=tuple(range(seeds)))
            line = [f"paths.runs={runs}"]
            line += [f"{part.names_data}={place}"] if part.data else []
            line += overrides if part.program.name == program.name else []
            code = worse(code, one(part, study, runs, line, found))
        rows, lines = measured_shares(runs)
        variants, grid = found.pop(VARIANTS, []), found.pop(GRID, [])
        write_text(out / FIGURE, figure(lines))
        print(f"page: {write_text(out / PAGE, page(found, variants, grid, rows, skipped))}")
        return code


def one(part: Part, study: Study, runs: Path, line: Sequence[str], found: dict[str, Sequence[RunRecord]]) -> int:
    """Run one part, put its runs into `found`, and return the exit code."""

    def keep(own: Sequence[RunRecord]) -> Path:
        found[part.name] = own
        return runs / f"feedback_{part.name}"

    return run_study(part.program, replace(study, page=keep), f"feedback_{part.name}", line)
