"""`python -m asgml.compare RUNS [--name NAME] [--out FOLDER]`: every method of an experiment in one table.

Mean and 95 % interval over seeds, the paired test against joint training with Holm's correction, the cost of a step
relative to joint, peak memory; below it every asynchronous row against its controls; in the terminal, and as
`methods.md`, `methods.tex` and `methods.html` in FOLDER.
"""

from __future__ import annotations

import argparse
import html
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from callbacks.errors import UserError
from suite.config.compose import Composer
from suite.report.data import Run, read_runs
from suite.report.frames import Configuration, RunFrames, group_runs
from suite.report.html import CSS
from suite.report.summary import compare, per_seed, state, step_ms
from suite.report.tables import (
    ABSENT,
    Cell,
    Column,
    Table,
    as_html,
    difference,
    estimate,
    latex,
    markdown,
    number,
    p_value,
    terminal,
)
from suite.statistics import PairedTest, holm, smallest_p

PERCENT = 100.0
#: Controls stand below the method whose side effect they isolate.
BELOW = {
    "control_lr_matched": "asgml_frequency",
    "control_random_skip": "asgml_frequency",
    "control_scale_only": "asgml_staleness",
    "control_all_delayed": "asgml_staleness",
    "control_adaptive_scale_only": "asgml_adaptive",
    "control_adaptive_all_delayed": "asgml_adaptive",
}


def ordered(frames: RunFrames) -> list[Configuration]:
    """The baseline, then by name, every control below its method."""

    def place(c: Configuration) -> tuple[bool, str, bool, str]:
        above = BELOW.get(c.label)
        return c.label != frames.baseline, above or c.label, above is not None, c.label

    return sorted(frames.configurations, key=place)


def accuracy(split: str) -> Callable[[Run], float | None]:
    return lambda run: run.metric(split, "accuracy")


def ratio(c: Configuration, base: Configuration | None, value: Callable[[Run], float | None]) -> dict[int, float]:
    """Per common seed, `value` over the baseline's."""
    mine, theirs = per_seed(c, value), {} if base is None else per_seed(base, value)
    return {seed: v / theirs[seed] for seed, v in mine.items() if theirs.get(seed)}


def same_numbers(c: Configuration, base: Configuration) -> bool:
    """Do all common seeds end with the very same test loss and accuracy?"""
    values = [(per_seed(c, f), per_seed(base, f)) for f in (accuracy("test"), lambda run: run.metric("test", "loss"))]
    return all((seeds := set(a) & set(b)) and all(a[s] == b[s] for s in seeds) for a, b in values)


def method_table(frames: RunFrames, registered: Sequence[str] = (), times: bool = True) -> Table:
    """The table of one experiment. `registered`: names of all methods, to say which have not been run; `times`: show
    what a step took, which is right only where no run shared its machine with another."""
    base, rows = frames.base, ordered(frames)
    tests: dict[str, dict[str, PairedTest | None]] = {
        split: {c.label: None if base is None or c is base else compare(c, base, accuracy(split)) for c in rows}
        for split in ("test", "test_best")
    }
    adjusted = {
        split: dict(zip(found, holm([t.p if t else None for t in found.values()]), strict=True))
        for split, found in tests.items()
    }
    columns = [Column("method", numeric=False), Column("seeds")]
    for at in ("last epoch", "best val. epoch"):
        columns += [
            Column(f"accuracy %\n{at}"),
            Column(f"Δ\n{at} [95 %]"),
            Column(f"p\n{at}"),
            Column(f"p Holm\n{at}"),
        ]
    columns += [Column("step time\n/ joint")] * times + [Column("peak memory\nMB")]
    body = []
    for c in rows:
        row = [Cell(c.label), Cell(state(c))]
        for split in ("test", "test_best"):
            row.append(estimate(per_seed(c, accuracy(split)), PERCENT))
            row += _test_cells(tests[split][c.label], adjusted[split][c.label], c is base)
        if times:
            relative = ratio(c, base, step_ms)
            row.append(number(float(np.median(list(relative.values()))) if relative else None))
        row.append(estimate(per_seed(c, lambda run: run.number("peak_memory_mb")), digits=0))
        body.append(row)
    table = Table(f"Methods on {frames.experiment}", columns, body, _notes(frames, tests, registered, times))
    table.strong = {i for i, c in enumerate(rows) if c is base}
    return table.without_empty()


def _test_cells(test: PairedTest | None, adjusted: float | None, is_base: bool) -> list[Cell]:
    if test is None:
        return [Cell("baseline" if is_base else ABSENT), Cell(ABSENT), Cell(ABSENT)]
    delta = difference(test.difference, PERCENT)
    hint = f"{test.n} common seeds" + (f"; {test.note}" if test.note else "")
    return [Cell(delta.text, delta.value, hint), p_value(test.p, test.note), p_value(adjusted)]


def control_table(frames: RunFrames) -> Table | None:
    """Every asynchronous row minus each of its controls; None without any pair.

    A gain over joint that the control has as well is not one of asynchrony.
    """
    by_label = {c.label: c for c in frames.configurations}
    pairs = [(BELOW[c.label], c.label) for c in ordered(frames) if c.label in BELOW and BELOW[c.label] in by_label]
    if not pairs:
        return None
    found = {
        split: [compare(by_label[row], by_label[control], accuracy(split)) for row, control in pairs]
        for split in ("test", "test_best")
    }
    columns = [Column("method", numeric=False), Column("control", numeric=False)]
    body: list[list[Cell]] = [[Cell(row), Cell(control)] for row, control in pairs]
    for at, tests in zip(("last epoch", "best val. epoch"), found.values(), strict=True):
        columns += [Column(f"Δ\n{at} [95 %]"), Column(f"p\n{at}"), Column(f"p Holm\n{at}")]
        for cells, test, adjusted in zip(body, tests, holm([t.p if t else None for t in tests]), strict=True):
            cells += _test_cells(test, adjusted, False)
    notes = [
        "Δ: percentage points of test accuracy of the method minus its control, which has the side effect (fewer or "
        "smaller updates, equal delays) without the asynchrony; paired by seed, 95 % t interval; Holm over the rows."
    ]
    return Table(f"Asynchrony against its controls on {frames.experiment}", columns, body, notes).without_empty()


def _notes(
    frames: RunFrames, tests: dict[str, dict[str, PairedTest | None]], registered: Sequence[str], times: bool
) -> list[str]:
    notes = ["±: half of the 95 % t interval over seeds; one seed has none. — means not measured."]
    if frames.base is None:
        notes.append("No joint run, hence no differences: run method=joint, or name a row with --baseline.")
    else:
        last, best = (sum(t is not None and t.p is not None for t in found.values()) for found in tests.values())
        notes.append(
            f"Δ: percentage points of test accuracy against “{frames.baseline}”, paired by seed, with its 95 % t "
            f"interval; p: paired t test; Holm over {last} tests (last epoch) and {best} (best validation epoch), "
            "where a test exists. Model selection is on validation only."
        )
    found = [t for t in tests["test_best"].values() if t is not None]
    for n in sorted({t.n for t in found}):
        limits = smallest_p(n)
        note = limits.sentence
        spreads = [t.difference.sd for t in found if t.n == n and t.difference.sd]
        if spreads and limits.detectable_dz is not None:
            points = limits.detectable_dz * float(np.median(spreads)) * PERCENT
            note += f" Here (median spread) that is about {points:.1f} percentage points, before Holm."
        notes.append(note)
    if times:
        notes.append(
            "Step time: as it was in the runs (median over the run, ratio per common seed, median over seeds), "
            "whatever else the machine did; asgml.bench.method_costs takes turns."
        )
    notes.append(
        "Peak memory: allocated on the accelerator where one is used, else resident, data and libraries included."
    )
    controls = [c.label for c in frames.configurations if c.label in BELOW]
    if controls:
        notes.append("A control_… row has the side effect of the row above it, without its asynchrony.")
    if frames.base is not None:
        twins = [c.label for c in frames.configurations if c is not frames.base and same_numbers(c, frames.base)]
        if twins:
            notes.append(
                f"{', '.join(twins)}: the same numbers as {frames.baseline} with every seed: nothing of it acted."
            )
    missing = [name for name in registered if name not in {c.label for c in frames.configurations}]
    if missing:
        notes.append(f"Not run here: {', '.join(missing)}.")
    return notes + frames.notes


def page(tables: Sequence[Table]) -> str:
    """The tables as one self-contained HTML page without scripts."""
    title = "; ".join(table.title for table in tables)
    body = "".join(f"<section>{as_html(table)}</section>" for table in tables)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head><body><main>{body}</main></body></html>\n"
    )


def save(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Writes `methods.md`, `methods.tex` and `methods.html`, each in one move."""
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for name, text in (("md", markdown(tables)), ("tex", latex(tables)), ("html", page(tables))):
        path = folder / f"methods.{name}"
        partial = path.with_name(path.name + ".part")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
        out.append(path)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or that of a UserError."""
    parser = argparse.ArgumentParser(
        prog="python -m asgml.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="the folder that paths.runs names, or run directories")
    parser.add_argument("--name", help="only this experiment")
    parser.add_argument("--baseline", default=None, help="label of the row that the others are compared with")
    parser.add_argument("--no-times", action="store_true", help="no step times: the runs shared their machine")
    parser.add_argument("--out", type=Path, help="folder of the three files (default: RUNS)")
    arguments = parser.parse_args(argv)
    try:
        found = [run for run in read_runs(arguments.runs, arguments.name) if run.program == "asgml"]
        if not found:
            raise UserError(
                ", ".join(map(str, arguments.runs)),
                "no run of asgml",
                "runs of python -m asgml.run",
                "python -m asgml.run -m sweep=methods experiment=avdigits",
            )
        registered = [name for name in Composer("asgml").options("method") if name != "unimodal"]
        tables = []
        for frames in group_runs(found, arguments.baseline):
            tables.append(method_table(frames, registered, not arguments.no_times))
            below = control_table(frames)
            tables += [] if below is None else [below]
        paths = save(tables, arguments.out or arguments.runs[0])
    except UserError as error:
        print(error, file=sys.stderr)
        return UserError.EXIT_CODE
    console = Console()
    console.print(terminal(tables, console.width))
    for path in paths:
        console.print(str(path), soft_wrap=True, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
