"""The summary of an experiment: test results with intervals and paired tests, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asgml.report.floor import floor_of, floor_rows
from asgml.report.naming import metric, modalities
from asgml.report.regression import regression_table
from asgml.report.reliance import reliance_table
from asgml.report.samples import sample_table
from callbacks.run.history import COUNTERS
from suite.report.data import RunRecord
from suite.report.frames import Configuration, RunFrames
from suite.report.summary import Comparison, compare, limit_notes, per_seed, seeds_notes, state
from suite.report.tables import ABSENT, INTERVALS, PERCENT, Cell, Table, columns, estimate, number, texts

COUNTS = (*COUNTERS, "dropped")  # of gradients that were never applied

MEANINGS = {
    "updates": "full updates, fresh or delayed",
    "soft": "scaled-down updates",
    "fusion": "updates from the fusion path only",
    "held": "steps in which the encoder stood still",
    "missing": "steps without its modality",
    "dropped": "stored gradients that were never applied",
}


def tables(frames: RunFrames) -> list[Table]:
    """Build results, per-sample comparison, reliance on each modality and cost, as far as there are data."""
    values = regression_table(frames)
    shown = result_table(frames) if values is None else values
    found = [shown, sample_table(frames), reliance_table(frames), cost_table(frames)]
    return [table for table in found if table is not None and len(table.columns) > 1]


def best_epochs(run: RunRecord) -> float | None:
    """Return the number of epochs after which the best checkpoint was written; None where the run does not say it."""
    epoch = run.number("best_epoch")
    return None if epoch is None else epoch + 1


def score(run: RunRecord) -> float | None:
    """Return the validation accuracy of the best epoch, or minus the error of a regression: higher is better."""
    error = run.metric("val_best", "mae")
    return run.metric("val_best", "accuracy") if error is None else -error


def result_table(frames: RunFrames) -> Table:
    """Show test accuracy with its difference to the baseline, macro F1, mAP and the accuracies of unimodal heads."""
    base, heads = frames.base, modalities(frames)
    best = any(run.metric("test_best", "accuracy") is not None for run in frames.runs)
    split, at = ("test_best", "best val.") if best else ("test", "last")
    found = compare([(c, None if c is base else base) for c in frames.configurations], metric(split))
    numbers = ["seeds", "accuracy %\nlast epoch", "accuracy %\nbest val. epoch", "epochs to the\nbest val."]
    numbers += [f"Δ accuracy\n{at} [95 %]", "p\npaired t", "p\nHolm", "dz"]
    numbers += [f"{name} %\n{at}" for name in ("macro F1", "mAP", *[f"{m} head" for m in heads])]
    rows = []
    for c, against in zip(frames.configurations, found):
        row = texts(c.label, state(c))
        row += [estimate(per_seed(c, metric(where)), PERCENT) for where in ("test", "test_best")]
        row.append(estimate(per_seed(c, best_epochs), digits=1))
        row += against.cells("baseline" if c is base and not frames.single else ABSENT)
        row.append(number(against.test.dz if against.test else None))
        for name in ["macro_f1", "map", *[f"accuracy/{m}" for m in heads]]:
            row.append(estimate(per_seed(c, metric(split, name)), PERCENT))
        rows.append(row)
    head, (floor, verdict) = columns("configuration", numbers=numbers), floor_of(frames)
    notes = [*verdict, *_notes(frames, found, at)]
    compared = len(rows)
    rows += floor_rows(head, floor)
    outside = set(range(compared, len(rows)))
    return Table("Test results", head, rows, notes, frames.baseline_rows, outside).without_empty()


def _notes(frames: RunFrames, found: Sequence[Comparison], at: str) -> list[str]:
    notes = [f"{INTERVALS} — means not measured."]
    done = [len(c.finished) for c in frames.configurations if c.finished]
    if frames.base is None and not frames.single:
        notes.append("Without a baseline there are no differences: name one with --baseline LABEL.")
    elif not frames.single:
        family = sum(c.adjusted is not None for c in found)
        notes.append(
            f"Δ: percentage points against “{frames.baseline}” ({at} epoch), paired by seed, with its 95 % t "
            f"interval; Holm over {family} test{'s' if family != 1 else ''}; dz: mean over standard deviation "
            "of the paired differences."
        )
        notes += seeds_notes(frames)
    unfinished = [] if done else ["No run has finished yet."]
    return [*notes, *limit_notes(found, done), *unfinished, *frames.notes]


def step_ms(run: RunRecord) -> float | None:
    """Return the median time of a step in ms; None where it was not logged."""
    timed = run.series.get("time/step_ms")
    if timed is None or not np.isfinite(timed.value).any():
        return None
    return float(np.median(timed.value[np.isfinite(timed.value)]))


def cost_table(frames: RunFrames) -> Table:
    """Show time per step (also relative to the baseline), wall time, memory, and what the schedule did."""
    base_ms = per_seed(frames.base, step_ms) if frames.base else {}
    numbers = ["step\nms", "step time\n/ baseline", "run\ns", "peak memory\nMB"]
    counted = _counted(frames)
    head = [*columns("configuration", numbers=numbers), *columns(f"steps: {' / '.join(counted)}")]
    head += columns(numbers=["skipped\nsteps"])
    rows = []
    for c in frames.configurations:
        ms = per_seed(c, step_ms)
        ratio = float(np.mean(list(ms.values())) / np.mean(list(base_ms.values()))) if ms and base_ms else None
        rows.append(
            [
                Cell(c.label),
                estimate(ms),
                number(ratio),
                estimate(per_seed(c, lambda r: r.number("seconds")), digits=1),
                estimate(per_seed(c, lambda r: r.number("peak_memory_mb")), digits=1),
                Cell(_counters(c, modalities(frames), counted)),
                _skipped(c),
            ]
        )
    notes = ["Step: median over the run, then mean over seeds (±: as above). Counts: mean over seeds, per encoder."]
    told = [f"{name}: {MEANINGS[name]}" for name in counted if name in MEANINGS]
    notes += [f"{'; '.join(told)}."] if told else []
    return Table("Cost and schedule", head, rows, notes, frames.baseline_rows).without_empty()


def _counted(frames: RunFrames) -> list[str]:
    """Return the counters that are not 0 everywhere, `updates` first in any case."""
    runs = [run for c in frames.configurations for run in c.finished]
    return [name for name in COUNTS if name == "updates" or any(any(r.counter(name).values()) for r in runs)]


def _counters(c: Configuration, encoders: list[str], counted: Sequence[str]) -> str:
    counts = [{name: r.counter(name) for name in counted} for r in c.finished]
    keys = [m for m in [*encoders, ""] if any(m in found for count in counts for found in count.values())]
    lines = []
    for key in keys:
        means = [[v for count in counts if (v := count[name].get(key)) is not None] for name in counted]
        shown = " / ".join(_count(float(np.mean(values))) if values else ABSENT for values in means)
        lines.append(f"{key} {shown}".strip())
    return "\n".join(lines) or ABSENT


def _skipped(c: Configuration) -> Cell:
    values = {r.seed: sum(found.values()) for r in c.finished if (found := r.counter("skipped"))}
    if not values:
        return Cell(ABSENT)
    hint = ", ".join(f"seed {seed}: {v:g}" for seed, v in values.items())
    mean = float(np.mean(list(values.values())))
    return Cell(_count(mean), mean, hint)


def _count(mean: float) -> str:
    return f"{mean:.0f}" if mean.is_integer() else f"{mean:.1f}"
