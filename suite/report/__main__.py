"""`python -m suite.report RUNS [--name NAME] [--out FILE] [--baseline LABEL]`: terminal tables and an HTML report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from suite.runs.command import command, command_parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, write the report, and return the exit code: 0, or that of a UserError."""
    parser = command_parser("python -m suite.report", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="the folder that paths.runs names, or run directories")
    parser.add_argument("--name", help="only this experiment")
    parser.add_argument("--baseline", help="label of the row that the others are compared with")
    parser.add_argument("--out", type=Path, help="HTML file (default: report.html in RUNS)")
    parser.add_argument("--table", choices=["markdown", "latex"], help="print the summary in this form instead")
    arguments = parser.parse_args(argv)

    from rich.console import Console

    from suite.report.data import read_runs
    from suite.report.grouping import group_runs
    from suite.report.html import write
    from suite.report.statements import spoken
    from suite.report.summary import summary
    from suite.report.tables import latex, markdown, terminal
    from suite.report.verdict import verdict

    comparisons = group_runs(read_runs(arguments.runs, arguments.name), arguments.baseline)
    tables = [(frames.title, summary(frames)) for frames in comparisons]
    if arguments.table:
        render = markdown if arguments.table == "markdown" else latex
        mark = "##" if arguments.table == "markdown" else "%"
        for name, tables_of_one in tables:
            sys.stdout.write(f"{mark} {name}\n\n" if len(tables) > 1 else "")
            sys.stdout.write(render(tables_of_one))
            sys.stdout.write("\n" if len(tables) > 1 else "")
        return 0
    out = write(arguments.out or arguments.runs[0] / "report.html", comparisons)
    console = Console()
    for frames, (name, tables_of_one) in zip(comparisons, tables, strict=True):
        console.rule(name)
        console.print(spoken(verdict(frames)))
        console.print(terminal(tables_of_one, console.width, str(out)))
    console.print(f"report: {out}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
