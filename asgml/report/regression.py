"""Runs whose target is a number: their test results, and their error over epochs."""

from __future__ import annotations

from asgml.report.naming import modalities, tints
from suite.report.data import RunRecord
from suite.report.figures import INK, Line
from suite.report.frames import RunFrames, Value
from suite.report.sections import Item, grid
from suite.report.summary import compare, per_seed, state
from suite.report.tables import ABSENT, INTERVALS, PERCENT, Cell, Table, columns, difference, estimate, p_value, texts

#: Metric, column and scale; those of sentiment only where the labels are sentiments.
OTHERS = {
    "pearson": ("Pearson r", 1.0),
    "acc7": ("acc-7 %", PERCENT),
    "acc2": ("acc-2 %\nnegative / rest", PERCENT),
    "f1": ("F1 %\nnegative / rest", PERCENT),
    "acc2_nonzero": ("acc-2 %\nnegative / positive", PERCENT),
    "f1_nonzero": ("F1 %\nnegative / positive", PERCENT),
}


def reader(split: str, name: str = "mae") -> Value:
    """Return the reader of a metric of a split; a classification has no `mae`."""

    def read(run: RunRecord) -> float | None:
        return run.metric(split, name)

    return read


def regression_table(frames: RunFrames) -> Table | None:
    """Show test MAE with its difference to the baseline, correlation, sentiment metrics; None without regressions."""
    best = any(reader("test_best")(run) is not None for run in frames.runs)
    split, at = ("test_best", "best val. epoch") if best else ("test", "last epoch")
    if not any(reader(split)(run) is not None for run in frames.runs):
        return None
    base, heads = frames.base, modalities(frames)
    found = compare([(c, None if c is base else base) for c in frames.configurations], reader(split))
    shown = OTHERS | {f"mae/{m}": (f"MAE\n{m} head", 1.0) for m in heads}
    numbers = ["seeds", "MAE\nlast epoch", "MAE\nbest val. epoch", f"Δ MAE\n{at} [95 %]", "p\npaired t", "p\nHolm"]
    rows = []
    for c, against in zip(frames.configurations, found, strict=True):
        row = texts(c.label, state(c))
        row += [estimate(per_seed(c, reader(where)), digits=3) for where in ("test", "test_best")]
        if against.test is None:
            row += [Cell("baseline" if c is base and not frames.single else ABSENT), Cell(ABSENT), Cell(ABSENT)]
        else:
            row += [difference(against.test.difference, digits=3), p_value(against.test.p), p_value(against.adjusted)]
        for name, (_, scale) in shown.items():
            values = per_seed(c, reader(split, name))
            row.append(estimate(values, scale, 2 if scale == PERCENT else 3))
        rows.append(row)
    numbers += [title for title, _ in shown.values()]
    notes = [
        f"MAE: mean absolute error, lower is better. {INTERVALS} Columns right of p are "
        f"those of the {at}; rest: 0 and positive values."
    ]
    head = columns("configuration", numbers=numbers)
    return Table("Test results of the regression", head, rows, notes, frames.baseline_rows).without_empty()


def errors(frames: RunFrames) -> list[Item]:
    """Draw per configuration the mean absolute error of the fused prediction and of each modality's head."""
    lines = [Line("val/mae", "fused", INK)]
    lines += [Line(f"val/mae/{m}", f"{m} head", colour) for m, colour in tints(modalities(frames)).items()]
    return grid(frames, "", ("val/mae",), lines, "validation MAE")
