"""`python -m asgml.compare RUNS [--name NAME] [--out FOLDER]`: every method of an experiment in one table per data set.

Mean and 95 % interval over seeds, the paired test against joint training with Holm's correction, the cost of a step
relative to joint, peak memory; below it every asynchronous row against its controls; from three seeds on also the test
whether a row is equivalent to joint, or to its control, within `--margin` percentage points; and what predictions rely
on (`asgml.train.Reliance`). In the terminal, and as `methods.md`, `methods.tex` and `methods.html` in FOLDER. Runs on
other data (other settings of the data, or files of other content) have a table of their own, debugging runs and
replayed faults are left out, and the last rows of each table are what needs no training: the majority class and chance.
Rows that `asgml.tune` has tuned show their budget and their chosen point; runs of theirs at other points are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from callbacks.errors import UserError, quoted
from suite.runs.command import command, command_parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, write the files, and return the exit code: 0, or that of a UserError."""
    parser = command_parser("python -m asgml.compare", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="the folder that paths.runs names, or run directories")
    parser.add_argument("--name", help="only this experiment")
    parser.add_argument("--baseline", default=None, help="label of the row that the others are compared with")
    parser.add_argument(
        "--margin", type=float, default=1.0, help="percentage points within which rows are equivalent (%(default)s)"
    )
    parser.add_argument("--no-times", action="store_true", help="no step times: the runs shared their machine")
    parser.add_argument("--out", type=Path, help="folder of the three files (default: RUNS)")
    arguments = parser.parse_args(argv)
    if not 0 < arguments.margin < 100:
        expected = "percentage points above 0 and below 100"
        raise UserError("--margin", f"{arguments.margin:g}", expected, "--margin 1")

    from rich.console import Console

    from asgml.report.comparison import comparison, save
    from asgml.report.measured import aside, debugging
    from suite.report.data import read_runs
    from suite.report.tables import terminal

    found = [run for run in read_runs(arguments.runs, arguments.name) if run.program == "asgml"]
    if not found:
        raise UserError(
            ", ".join(map(str, arguments.runs)),
            "no run of asgml",
            "runs of python -m asgml.run",
            "python -m asgml.run -m sweep=methods experiment=avdigits",
        )
    if all(aside(run) for run in found):
        kinds = "debugging runs" if all(debugging(run) for run in found) else "debugging runs and replayed faults"
        raise UserError(
            ", ".join(map(str, arguments.runs)),
            f"{kinds} only ({len(found)})",
            "a run without debug=… and without +fault=…",
            f"look at them with python -m suite.report {quoted(arguments.runs[0])}",
        )
    tables = comparison(found, arguments.baseline, times=not arguments.no_times, margin=arguments.margin)
    paths = save(tables, arguments.out or arguments.runs[0])
    console = Console()
    console.print(terminal(tables, console.width, str(paths[0])))
    for path in paths:
        console.print(str(path), soft_wrap=True, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
