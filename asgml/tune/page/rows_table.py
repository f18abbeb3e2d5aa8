"""The table of a data set: what every row was given, what it reached, and what it gains over joint and `uniform`."""

from __future__ import annotations

from asgml.report.multimodal import weaker
from asgml.report.naming import metric
from asgml.report.tuned import budget_notes
from asgml.tune.page.evidence import JOINT, UNIFORM, Evidence
from asgml.tune.page.questions import TEST
from suite.report.data import RunRecord
from suite.report.summary import compare, per_seed, state
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, estimate, texts

TRAINED = "train/accuracy"


def train_accuracy(run: RunRecord) -> float | None:
    """Return the accuracy on the training batches of the best validation epoch, as they were trained on.

    It is the run's own count: weights move during the epoch, samples are augmented where the data set does that, and a
    method that changes features is scored with them changed. None where the run has not logged it.
    """
    series, epoch = run.series.get(TRAINED), run.number("best_epoch")
    if series is None or epoch is None:
        return None
    at = series.value[series.epoch == int(epoch)]
    return float(at[-1]) if at.size else None


def gap(run: RunRecord) -> float | None:
    """Return train minus test accuracy at the best validation epoch, None where either is missing."""
    train, test = train_accuracy(run), TEST(run)
    return None if train is None or test is None else train - test


def rows_table(data: Evidence) -> Table:
    """Show every row of a data set at its chosen point, in the study's order."""
    assert data.frames is not None
    rows = data.rows
    weak, why = weaker(data.frames)
    against = {
        name: compare([(c, None if c.label == name else rows[name]) for c in rows.values()], TEST)
        for name in (JOINT, UNIFORM)
        if name in rows
    }
    cells = []
    for i, (name, c) in enumerate(rows.items()):
        row = texts(name, state(c), data.tuned[name].budget, data.tuned[name].chosen)
        row.append(estimate(per_seed(c, TEST), PERCENT))
        row.append(
            Cell(ABSENT) if weak is None else estimate(per_seed(c, metric("test_best", f"accuracy/{weak}")), PERCENT)
        )
        apart = estimate(per_seed(c, gap), PERCENT)
        row.append(Cell(apart.text.replace("-", "−"), apart.value, apart.hint))
        row += [found[i].cells("baseline" if c.label == base else ABSENT)[0] for base, found in against.items()]
        cells.append(row)
    numbers = ["test accuracy %", f"{weak or 'weaker modality'} %", "train − test"]
    head = [*columns("row", numbers=["seeds", "trials"]), *columns("chosen point", numbers=numbers)]
    head += columns(numbers=[f"Δ to {base} [95 %]" for base in against])
    strong = {i for i, name in enumerate(rows) if name == JOINT}
    notes = [f"The weaker modality is {weak}, by the {why}; its column is that of its head."] if weak else []
    notes += budget_notes({name: data.tuned[name] for name in rows})
    return Table("", head, cells, notes, strong).without_empty()
