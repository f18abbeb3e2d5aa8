"""The tables of a comparison, every method of an experiment per data set, and the files they are written to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asgml.report.best_on_test import best_on_test_table
from asgml.report.methods_table import MARGIN, control_table, method_table
from asgml.report.naming import modalities
from asgml.report.regression import regression_table
from asgml.report.reliance import reliance_table
from asgml.report.tuned import at_chosen_points, tuned_rows
from callbacks.files.atomic import write_text
from suite.config.compose import Composer
from suite.report.data import RunRecord
from suite.report.grouping import group_runs
from suite.report.html import tables_page
from suite.report.tables import Table, latex, markdown


def save(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write `methods.md`, `methods.tex` and `methods.html`, each in one move, and return their paths."""
    texts = {"md": markdown(tables), "tex": latex(tables), "html": tables_page(tables)}
    return [write_text(folder / f"methods.{end}", text) for end, text in texts.items()]


def comparison(
    runs: Sequence[RunRecord], baseline: str | None = None, *, times: bool = True, margin: float = MARGIN
) -> list[Table]:
    """Return the tables per data set: every row, every asynchronous row against its controls, and reliance.

    Args:
        runs: the runs.
        baseline: the label of the row that the others are compared with; None is joint training.
        times: whether to show what a step took.
        margin: the margin of equivalence, in percentage points.

    Raises:
        UserError: a baseline that no comparison has, or a damaged `tuned.json`.
    """
    methods = [name for name in Composer("asgml").options("method") if name.partition("_")[0] != "unimodal"]
    kept, left = at_chosen_points(runs)
    tables = []
    for frames in group_runs(kept, baseline):
        tuned = tuned_rows(frames.runs)
        frames.notes += [left[frames.experiment]] if frames.experiment in left else []
        registered = [] if tuned else [*methods, *(f"unimodal_{m}" for m in modalities(frames))]
        tables.append(method_table(frames, registered, times, margin, tuned))
        controls = control_table(frames, margin, tuned)
        more = (regression_table(frames), controls, reliance_table(frames), best_on_test_table(frames))
        tables += [t for t in more if t is not None]
    return tables
