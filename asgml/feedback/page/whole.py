"""The study of the feedback system as one command: every part, the shares, and the page."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from asgml.feedback.page.scale import figure
from asgml.feedback.page.shares import measured_shares
from asgml.feedback.page.text import FIGURE, page
from callbacks.errors import UserError
from suite.report import RunRecord
from suite.report.html import write_text
from suite.runs.command import command
from suite.runs.launch import worse
from suite.runs.study import Program, Study, run_study

PAGE, VARIANTS, TILES = "feedback.md", "variants", "magnetic_tile"


class Whole:
    """Runs every part of the study, measures the shares, and writes the page; started again, only what is missing.

    Args:
        parts: the studies by name, `variants` among them; the others are data sets with a row `base` and a row
            `feedback`.
    """

    def __init__(self, parts: Mapping[str, Study]):
        self.parts = dict(parts)

    def __call__(self, program: Program, words: Sequence[str]) -> int:
        """Return the most severe exit code of a run."""

        @command
        def main(argv: Sequence[str] | None = None) -> int:
            parser = argparse.ArgumentParser(prog=f"python -m {program.name}.study feedback")
            parser.add_argument("--data", type=Path, default=Path("data"), help=f"the folder that has {TILES}/")
            parser.add_argument("--out", type=Path, default=Path("docs/results"), help="the folder of the page")
            parser.add_argument("--seeds", type=int, help="the number of seeds of every row, in place of three")
            parser.add_argument("overrides", nargs="*", help="overrides that go to every run")
            given = parser.parse_intermixed_args(argv)
            return self.run(program, given.data, given.out, given.seeds, given.overrides)

        return main(list(words))

    def run(self, program: Program, data: Path, out: Path, seeds: int | None, overrides: Sequence[str]) -> int:
        """Run the parts, and write the page.

        Args:
            program: the program.
            data: the folder that the magnetic tiles lie in; without them that part is left out, and the page says so.
            out: the folder of the page.
            seeds: the number of seeds, None as the parts have them.
            overrides: the overrides of every run.

        Raises:
            UserError: fewer than one seed.
        """
        if seeds is not None and seeds < 1:
            raise UserError("--seeds", str(seeds), "1 or more", "--seeds 3")
        runs = Path(next((o.partition("=")[2] for o in reversed(overrides) if o.startswith("paths.runs=")), "runs"))
        found: dict[str, Sequence[RunRecord]] = {}
        skipped: dict[str, str] = {}
        code = 0
        for name, part in self.parts.items():
            more = [f"data.root={data / TILES}"] if name == TILES else []
            if name == TILES and not (data / TILES).is_dir():
                skipped[name] = f"no folder {TILES} in the folder given as --data"
                print(f"{name} is left out: no {data / TILES}; give its folder with --data FOLDER")
                continue
            study = replace(part, seeds=part.seeds if seeds is None else tuple(range(seeds)))
            code = worse(code, self.one(program, name, study, runs, [*more, *overrides], found))
        rows, lines = measured_shares(runs)
        variants = found.pop(VARIANTS, [])
        write_text(out / FIGURE, figure(lines))
        print(f"page: {write_text(out / PAGE, page(found, variants, rows, skipped))}")
        return code

    def one(
        self,
        program: Program,
        name: str,
        study: Study,
        runs: Path,
        overrides: Sequence[str],
        found: dict[str, Sequence[RunRecord]],
    ) -> int:
        """Run one part, put its runs into `found`, and return the exit code."""

        def keep(own: Sequence[RunRecord]) -> Path:
            found[name] = own
            return runs / f"feedback_{name}"

        return run_study(program, replace(study, page=keep), f"feedback_{name}", overrides)
