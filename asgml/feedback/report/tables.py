"""The summary of feedback runs: every metric after every loop, against the baseline, and of every class."""

from __future__ import annotations

from collections.abc import Callable

from asgml.feedback.metrics.loops import MEAN, NAMES
from suite.report.data import RunRecord
from suite.report.frames import Configuration, RunFrames
from suite.report.statements import Statement
from suite.report.summary import compare, limit_notes, per_seed, state
from suite.report.tables import ABSENT, INTERVALS, PERCENT, Cell, Table, columns, estimate, number, texts
from suite.report.verdict import Measure, Wording, judged

TITLES = {
    "pixel_auroc": "pixel\nAUROC %",
    "aupro": "AUPRO %",
    "pixel_ap": "pixel\nAP %",
    "pixel_f1_max": "pixel\nF1-max %",
    "pixel_auroc_within": "pixel AUROC %\nwithin images",
    "image_auroc": "image\nAUROC %",
    "image_ap": "image\nAP %",
    "image_f1_max": "image\nF1-max %",
}
COMPARED = ("pixel_auroc", "aupro")


def tables(frames: RunFrames) -> list[Table]:
    """Build results per loop, the comparison with the baseline, and the results per class."""
    found = [loop_table(frames)]
    if not frames.single and frames.base is not None:
        found.append(comparison_table(frames))
    return [*found, class_table(frames)]


def verdict(frames: RunFrames) -> list[Statement]:
    """Say what every row has shown against the baseline, by the metrics of the last loop."""
    if frames.single:
        return []
    if frames.base is None:
        return [Statement("No row is a baseline, so none is judged against one: name it with --baseline LABEL.")]
    pairs = [(c, frames.base) for c in frames.configurations if c is not frames.base]
    found = []
    for n in COMPARED:
        name = f"{' '.join(TITLES[n].removesuffix(' %').split())} of the test, last loop"
        found += judged(pairs, Measure(name, metric(n)), Wording(against=frames.base.label))
    return list(dict.fromkeys(found))


def score(run: RunRecord) -> float | None:
    """Return the pixel AUROC of the best validation: higher is better."""
    return run.metric("val_best", "pixel_auroc")


def metric(name: str) -> Callable[[RunRecord], float | None]:
    """Return what reads a metric of the test at the best validation."""
    return lambda run: run.metric("test_best", name)


def loops_of(c: Configuration) -> int:
    """Return the number of loops of a configuration's finished runs; 0 where none has finished."""
    return max((len((run.result.get("per_class") or {}).get("test_best") or []) for run in c.finished), default=0)


def loop_table(frames: RunFrames) -> Table:
    """Show the metrics of the test after every loop, as means over its classes."""
    rows: list[list[Cell]] = []
    strong: set[int] = set()
    for c in frames.configurations:
        count = loops_of(c)
        for loop in range(1, count + 1):
            if loop == count:
                strong.add(len(rows))
            names = texts(c.label, f"{loop} of {count}", state(c))
            rows.append([*names, *(estimate(per_seed(c, metric(f"{n}/loop{loop}")), PERCENT) for n in NAMES)])
        if not count:
            rows.append([*texts(c.label, ABSENT, state(c)), *(number(None) for _ in NAMES)])
    head = columns("configuration", "loop", numbers=["seeds", *(TITLES[n] for n in NAMES)])
    notes = [
        "Test, best validation epoch, mean over the tested classes. AUPRO: up to a false-positive rate of 0.3. "
        "Within images: the mean over damaged images of the AUROC of their own pixels, which does not change when all "
        "scores of an image move together. "
        f"{INTERVALS}"
    ]
    return Table("Test results per loop", head, rows, notes, strong)


def comparison_table(frames: RunFrames) -> Table:
    """Show what the last loop gains over the baseline, and over its own first loop, paired by seed."""
    rows: list[list[Cell]] = []
    base = frames.base
    titles = []
    for n in COMPARED:
        titles += [f"Δ {TITLES[n]}\nto the baseline", "p\npaired t", "p\nHolm"]
    head = columns("configuration", numbers=titles)
    found = {n: compare([(c, None if c is base else base) for c in frames.configurations], metric(n)) for n in COMPARED}
    for i, c in enumerate(frames.configurations):
        row = texts(c.label)
        for n in COMPARED:
            row += found[n][i].cells("baseline" if c is base else ABSENT)
        rows.append(row)
    notes = [f"Percentage points of the last loop against “{frames.baseline}”, paired by seed, with 95 % t intervals."]
    for n in COMPARED:
        notes += [f"{' '.join(TITLES[n].split())}: {note}" for note in limit_notes(found[n])]
    return Table("Against the baseline", head, rows, list(dict.fromkeys(notes)), frames.baseline_rows)


def class_table(frames: RunFrames) -> Table:
    """Show the metrics of the last loop for every tested class."""
    rows = []
    for c in frames.configurations:
        for name in _classes(c):
            cells = [estimate(per_seed(c, _of_class(name, n)), PERCENT) for n in NAMES]
            rows.append([*texts(c.label, name), *cells])
    head = columns("configuration", "class", numbers=[TITLES[n] for n in NAMES])
    return Table("Test results per class, last loop", head, rows, [])


def _classes(c: Configuration) -> list[str]:
    found: dict[str, None] = {}
    for run in c.finished:
        for loop in (run.result.get("per_class") or {}).get("test_best") or []:
            found |= {n: None for n, row in loop.items() if n != MEAN and any(v is not None for v in row.values())}
    return list(found)


def _of_class(name: str, metric_name: str) -> Callable[[RunRecord], float | None]:
    def read(run: RunRecord) -> float | None:
        loops = (run.result.get("per_class") or {}).get("test_best") or []
        value = loops[-1].get(name, {}).get(metric_name) if loops else None
        return None if value is None else float(value)

    return read
