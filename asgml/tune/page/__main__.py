"""`python -m asgml.tune.page RUNS [--out FOLDER] [overrides]`: the page of `python -m asgml.study settle`.

    python -m asgml.tune.page runs                      # docs/results/asgml.md and asgml.svg
    python -m asgml.tune.page runs --out page sets=[avdigits] seeds=[0,1,2]

RUNS is the folder that the study had as `paths.runs`; it is only read. A study that was smaller than
`conf/asgml/settle.yaml` says so with the same `sets=`, `rows=` and `seeds=` here, else the page calls it not finished.
Compute is counted from the shapes of the samples, so the data are looked for where the runs had them; a page without
them has all the rest, and says so. Paths that were relative are relative to the folder in which this is started.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from callbacks.errors import UserError
from suite.runs.command import command, command_parser

PAGE = "asgml.md"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write page and figure, and return the exit code: 0, or that of a UserError."""
    parser = command_parser("python -m asgml.tune.page", __doc__)
    parser.add_argument("runs", type=Path, help="the folder that the study had as paths.runs")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the page (%(default)s)")
    parser.add_argument("--margin", type=float, default=1.0, help="points of equivalence (%(default)s)")
    parser.add_argument("study", nargs="*", help="sets=, rows=, seeds= … as the study had them")
    arguments = parser.parse_intermixed_args(argv)
    if not 0 < arguments.margin < 100:
        expected = "percentage points above 0 and below 100"
        raise UserError("--margin", f"{arguments.margin:g}", expected, "--margin 1")

    from asgml.tune.command import asked
    from asgml.tune.options import StudyTree
    from asgml.tune.page.evidence import evidence
    from asgml.tune.page.writing import FIGURE, page
    from callbacks.files.atomic import write_text

    wanted = asked("asgml/settle", arguments.study, StudyTree)
    if wanted.line:
        remedy = "give sets=, rows=, seeds= or trials=, or leave it out"
        raise UserError(wanted.line[0], "not a key of the study", "keys of conf/asgml/settle.yaml", remedy)
    text, figure = page(evidence(arguments.runs, wanted.options), wanted.options, arguments.margin)
    print(write_text(arguments.out / PAGE, text))
    if figure:
        print(write_text(arguments.out / FIGURE, figure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
