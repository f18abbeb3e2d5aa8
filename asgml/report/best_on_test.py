"""What selecting on the test split gains, of runs that measured it (`asgml.train.BestOnTest`)."""

from __future__ import annotations

from asgml.report.naming import metric
from suite.report.frames import Configuration, RunFrames
from suite.report.summary import per_seed
from suite.report.tables import PERCENT, Table, columns, estimate, texts

SPLIT = "published_best_on_test"
NOTES = [
    "Best on test: the highest test accuracy of all epochs, the number of the published protocol. It is selected on "
    "the test split: compare it with published numbers selected alike and with nothing else; no choice here reads it. "
    "Selecting gains: that number minus the test accuracy at the epoch that validation chose, paired by seed. ±: half "
    "of the 95 % t interval over seeds. docs/protocols.md says what each number means.",
]


def best_on_test_table(frames: RunFrames) -> Table | None:
    """Show the published number beside the honest ones; None where no run measured it."""
    if not any(run.metric(SPLIT, "accuracy") is not None for run in frames.runs):
        return None
    head = columns(
        "configuration",
        numbers=["seeds", "best on test %", "best val. epoch %", "last epoch %", "selecting\ngains %", "of epochs"],
    )
    rows = []
    for c in frames.configurations:
        best, chosen, last = (per_seed(c, metric(split)) for split in (SPLIT, "test_best", "test"))
        gain = {seed: best[seed] - chosen[seed] for seed in best if seed in chosen}
        numbers = [estimate(values, PERCENT) for values in (best, chosen, last, gain)]
        rows.append([*texts(c.label, len(best)), *numbers, *texts(_evaluations(c))])
    title = f"Published protocol, selected on test, on {frames.title}"
    return Table(title, head, rows, NOTES, frames.baseline_rows).without_empty()


def _evaluations(c: Configuration) -> str:
    """Return of how many test accuracies the best was taken, `100` or `40–100`."""
    counts = per_seed(c, metric(SPLIT, "evaluations")).values()
    return "–".join(f"{n:g}" for n in sorted({min(counts), max(counts)})) if counts else ""
