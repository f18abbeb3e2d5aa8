"""Named studies: a table of configurations over seeds, resumable, ending with one table and one report.

python -m asgml.study demo                # `make demo`
python -m asgml.study avdigits paths.data=…   # further overrides go to every run
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from asgml.run import Tree, dead, train
from suite.errors import UserError
from suite.launch import launch
from suite.report import compare_report, group_runs, markdown, read_runs, summary, terminal


@dataclass(frozen=True)
class Study:
    """`rows` are lists of overrides, each run with every seed; the first row is the baseline of the table."""

    experiment: str
    seeds: tuple[int, ...]
    rows: tuple[tuple[str, ...], ...]


ASGML = ("asgml_staleness", "asgml_frequency", "asgml_adaptive")
STUDIES = {
    "demo": Study("cremad_mini", (0, 1), tuple((f"method={m}",) for m in ("joint", "ogm_ge", *ASGML))),
    "avdigits": Study(
        "avdigits",
        (0, 1, 2),
        (
            *((f"method={m}",) for m in ("joint", "uniform", "ogm_ge", *ASGML)),
            *(("method=unimodal", f"methods.unimodal.modality={m}") for m in ("audio", "visual")),
        ),
    ),
}


def label(row: Sequence[str]) -> str:
    """What tables call a row: the values of its overrides."""
    return " ".join(override.partition("=")[2] for override in row)


def run_study(name: str, overrides: Sequence[str]) -> int:
    """Runs what the ledger does not have yet, prints the tables, writes `report.html` and `table.md`; exit code."""
    study = STUDIES[name]
    runs = Path(next((o.partition("=")[2] for o in reversed(overrides) if o.startswith("paths.runs=")), "runs"))
    code = 0
    for row in study.rows:
        seeds = ",".join(map(str, study.seeds))
        argv = [
            "-m",
            f"experiment={study.experiment}",
            f"name={name}",
            f"label='{label(row)}'",
            f"seed={seeds}",
            *row,
            *overrides,
        ]
        try:
            launch("asgml", train, dead, schema=Tree, argv=argv)
        except SystemExit as end:
            if end.code in (130, 143):
                raise
            code = max(code, int(end.code or 0))
    found = [run for run in read_runs([runs], name) if run.config.get("label")]
    comparisons = group_runs(found, baseline=label(study.rows[0]))
    folder = runs / name
    for frames in comparisons:
        tables = summary(frames)
        Console().print(terminal(tables, Console().width))
        (folder / "table.md").write_text(markdown(tables), encoding="utf-8")
    report = compare_report([run.path for run in found], folder / "report.html", baseline=label(study.rows[0]))
    print(f"report: {report}")
    return code


def main() -> None:
    """Console entry."""
    name, *overrides = sys.argv[1:] or ["?"]
    if name not in STUDIES:
        print(UserError("python -m asgml.study", name, f"one of {', '.join(STUDIES)}", "name a study"), file=sys.stderr)
        raise SystemExit(UserError.EXIT_CODE)
    raise SystemExit(run_study(name, overrides))


if __name__ == "__main__":
    main()
