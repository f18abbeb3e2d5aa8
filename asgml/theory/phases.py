"""`python -m asgml.theory.phases RUNS`: the law of linear paths held against real networks.

    python -m asgml.study phases --data FOLDER           # the runs: conf/asgml/phases.yaml
    python -m asgml.theory.phases runs                   # docs/results/phases.md
    python -m asgml.theory.phases runs --out page sets=[cremad_mini] seeds=[1,2,3]

RUNS is the folder that the study had as `paths.runs`; it is only read. A study that was smaller than its YAML says so
with the same `sets=`, `rows=` and `seeds=` here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from callbacks.errors import UserError
from suite.runs.command import command, command_parser

STUDY, PAGE = "phases", "phases.md"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, and return the exit code: 0, or that of a UserError."""
    parser = command_parser("python -m asgml.theory.phases", __doc__)
    parser.add_argument("runs", type=Path, help="the folder that the study had as paths.runs")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the page (%(default)s)")
    parser.add_argument("study", nargs="*", help="sets=, rows=, seeds= … as the study had them")
    arguments = parser.parse_intermixed_args(argv)

    from asgml.theory.phase_page import page
    from asgml.tune.command import asked
    from asgml.tune.options import StudyTree
    from asgml.tune.page.evidence import evidence
    from callbacks.files.atomic import write_text

    wanted = asked(f"asgml/{STUDY}", arguments.study, StudyTree)
    if wanted.line:
        remedy = "give sets=, rows= or seeds=, or leave it out"
        raise UserError(wanted.line[0], "not a key of the study", f"keys of conf/asgml/{STUDY}.yaml", remedy)
    print(write_text(arguments.out / PAGE, page(evidence(arguments.runs, wanted.options, STUDY))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
