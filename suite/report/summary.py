"""The summary of an experiment: results with intervals and tests, what they cost, and what n seeds can show.

`TABLES` maps a program to the function that builds its tables; the default suits classification runs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from suite.report.data import Predictions, Run
from suite.report.frames import Configuration, RunFrames
from suite.report.sections import extend
from suite.report.tables import ABSENT, Cell, Column, Table, difference, estimate, number, p_value
from suite.statistics import (
    Bootstrap,
    Estimate,
    PairedTest,
    hierarchical_bootstrap,
    holm,
    mcnemar,
    paired_t,
    smallest_p,
)

PERCENT = 100.0
N_BOOT = 2000
TABLES: dict[str, Callable[[RunFrames], list[Table]]] = {}


def summary(frames: RunFrames) -> list[Table]:
    """The summary tables of an experiment."""
    extend(frames.program)
    return TABLES.get(frames.program, classification_tables)(frames)


def classification_tables(frames: RunFrames) -> list[Table]:
    """Results, per-sample comparison (where predictions are kept) and cost; tables without data are left out."""
    tables = [result_table(frames), sample_table(frames), cost_table(frames)]
    return [table for table in tables if table is not None and len(table.columns) > 1]


def per_seed(c: Configuration, value: Callable[[Run], float | None]) -> dict[int, float]:
    """seed -> value over the finished runs that have it."""
    return {run.seed: v for run in c.finished if (v := value(run)) is not None}


def compare(c: Configuration, base: Configuration, value: Callable[[Run], float | None]) -> PairedTest | None:
    """Paired t test of c against base over their common seeds with finite values; None without a common seed."""
    a, b = per_seed(c, value), per_seed(base, value)
    common = [s for s in sorted(set(a) & set(b)) if np.isfinite([a[s], b[s]]).all()]
    return paired_t([a[s] for s in common], [b[s] for s in common]) if common else None


def state(c: Configuration) -> str:
    """`5`, or `3 of 5 (1 failed, 1 running)`."""
    finished, total = len(c.finished), len(c.runs)
    if finished == total:
        return str(total)
    others = [f"{n} {status}" for status in ("failed", "stopped", "running") if (n := c.count(status))]
    return f"{finished} of {total} ({', '.join(others)})"


def result_table(frames: RunFrames) -> Table:
    """Test accuracy at the last and at the best-validation epoch, macro F1, mAP, unimodal heads, difference to
    the baseline."""
    modalities, base = frames.modalities, frames.base
    best = any(run.metric("test_best", "accuracy") is not None for run in frames.runs)
    split, at = ("test_best", "best val.") if best else ("test", "last")

    def metric(split: str, name: str) -> Callable[[Run], float | None]:
        return lambda run: run.metric(split, name)

    tests = {
        c.label: compare(c, base, metric(split, "accuracy"))
        for c in frames.configurations
        if base is not None and c is not base
    }
    adjusted = dict(zip(tests, holm([None if t is None else t.p for t in tests.values()])))
    columns = [
        *[Column("configuration", numeric=False), Column("seeds")],
        *[Column("accuracy %\nlast epoch"), Column("accuracy %\nbest val. epoch")],
        *[Column(f"Δ accuracy\n{at} [95 %]"), Column("p\npaired t"), Column("p\nHolm"), Column("dz")],
        *[Column(f"macro F1 %\n{at}"), Column(f"mAP %\n{at}"), *[Column(f"{m} head %\n{at}") for m in modalities]],
    ]
    rows = []
    for c in frames.configurations:
        row = [Cell(c.label), Cell(state(c))]
        row += [estimate(per_seed(c, metric(where, "accuracy")), PERCENT) for where in ("test", "test_best")]
        row += _test_cells(tests.get(c.label), adjusted.get(c.label), c is base, not frames.single)
        for name in ["macro_f1", "map", *[f"accuracy/{m}" for m in modalities]]:
            row.append(estimate(per_seed(c, metric(split, name)), PERCENT))
        rows.append(row)
    table = Table("Test results", columns, rows, _result_notes(frames, tests, at))
    table.strong = {i for i, c in enumerate(frames.configurations) if c is base and not frames.single}
    return table.without_empty()


def _test_cells(test: PairedTest | None, adjusted: float | None, is_base: bool, several: bool) -> list[Cell]:
    if test is None:
        return [Cell("baseline" if is_base and several else ABSENT), Cell(ABSENT), Cell(ABSENT), Cell(ABSENT)]
    seeds = f"{test.n} common seeds" + (f"; {test.note}" if test.note else "")
    delta = difference(test.difference, PERCENT)
    return [Cell(delta.text, delta.value, seeds), p_value(test.p, test.note), p_value(adjusted), number(test.dz)]


def _result_notes(frames: RunFrames, tests: dict[str, PairedTest | None], at: str) -> list[str]:
    notes = ["±: half of the 95 % t interval over seeds; a value without it comes from one seed. — means not measured."]
    done = [len(c.finished) for c in frames.configurations if c.finished]
    if not frames.single:
        if frames.base is None:
            notes.append("No baseline row, hence no differences: name one with --baseline LABEL.")
        else:
            family = sum(t is not None and t.p is not None for t in tests.values())
            notes.append(
                f"Δ: percentage points against “{frames.baseline}” ({at} epoch), paired by seed, with its 95 % t "
                f"interval; Holm over {family} test{'s' if family != 1 else ''}; dz: mean over standard deviation "
                "of the paired differences."
            )
    for n in sorted({t.n for t in tests.values() if t is not None} or set(done)):
        spreads = [t.difference.sd for t in tests.values() if t is not None and t.n == n and t.difference.sd]
        limits = smallest_p(n)
        note = limits.sentence
        if spreads and limits.detectable_dz is not None:
            points = limits.detectable_dz * float(np.median(spreads)) * PERCENT
            note += f" Here (median spread) that is about {points:.1f} percentage points."
        notes.append(note)
    if not done:
        notes.append("No run has finished yet.")
    return notes + frames.notes


def sample_table(frames: RunFrames) -> Table | None:
    """Accuracy over seeds and test samples from kept predictions; None where no run kept them."""
    kept = {
        c.label: {r.seed: p for r in c.finished if (p := r.predictions()) is not None} for c in frames.configurations
    }
    if not any(kept.values()):
        return None
    base = kept.get(frames.baseline or "", {})
    reference = next(p for seeds in kept.values() for p in seeds.values())
    everything = [p for seeds in kept.values() for p in seeds.values()]
    common = all(np.array_equal(p.index, reference.index) and np.array_equal(p.y, reference.y) for p in everything)
    one_seed = bool(base) and all(len(set(seeds) & set(base)) <= 1 for seeds in kept.values())
    rows = []
    for c in frames.configurations:
        seeds = kept[c.label]
        row = [Cell(c.label), Cell(str(len(seeds)))]
        if not seeds:
            rows.append([*row, Cell(ABSENT), Cell(ABSENT), Cell(ABSENT)])
            continue
        row.append(_interval_cell(_bootstrap(seeds, None, common)))
        if c.label == frames.baseline or not base:
            rows.append([*row, Cell("baseline" if base and not frames.single else ABSENT), Cell(ABSENT)])
            continue
        if not _same_samples(seeds, base):
            rows.append([*row, Cell(ABSENT, None, "other test samples than the baseline"), Cell(ABSENT)])
            continue
        got = _bootstrap(seeds, base, common)
        delta = Estimate(got.estimate, got.low, got.high, got.n_samples, note=got.note)
        shared = sorted(set(seeds) & set(base))
        exact = mcnemar(seeds[shared[0]].correct, base[shared[0]].correct) if one_seed and shared and common else None
        hint = "" if exact is None else f"{exact.only_a} samples right only here, {exact.only_b} only in the baseline"
        rows.append([*row, difference(delta, PERCENT), p_value(exact.p if exact else None, hint)])
    size = f"{reference.y.size}" if common else "different"
    alone = all(len(seeds) <= 1 for seeds in kept.values())
    clusters = " and clusters" if reference.group is not None and common else ""
    note = f"Percentile bootstrap ({N_BOOT} draws, best validation epoch) over "
    if alone:
        note += f"{size} test samples{clusters}: how far the result would move on another test set."
    else:
        note += f"seeds and {size} test samples{clusters}: how far the result would move on another test set as well. "
        note += "With few seeds its seed part is too narrow; the t interval is the one over seeds."
    notes = [note]
    if one_seed:
        notes.append("McNemar: exact test on the samples that only one of the two has right, for the one common seed.")
    columns = [
        Column("configuration", numeric=False),
        Column("seeds"),
        Column("accuracy %\n[95 %]"),
        Column("Δ accuracy\n[95 %]"),
        Column("p\nMcNemar"),
    ]
    table = Table("Over test samples" if alone else "Over seeds and test samples", columns, rows, notes)
    table.strong = {i for i, c in enumerate(frames.configurations) if c.label == frames.baseline and not frames.single}
    return table.without_empty()


def _same_samples(a: dict[int, Predictions], b: dict[int, Predictions]) -> bool:
    """Whether common seeds were tested on the same samples, so that their answers can be paired."""
    return all(np.array_equal(a[s].index, b[s].index) and np.array_equal(a[s].y, b[s].y) for s in set(a) & set(b))


def _bootstrap(a: dict[int, Predictions], b: dict[int, Predictions] | None, common: bool) -> Bootstrap:
    first = next(iter(a.values()))
    right_a = {s: p.correct for s, p in a.items()}
    right_b = None if b is None else {s: p.correct for s, p in b.items()}
    if common:
        return hierarchical_bootstrap(right_a, right_b, groups=first.group, n_boot=N_BOOT)
    return hierarchical_bootstrap(right_a, right_b, n_boot=N_BOOT, samples="nested")


def _interval_cell(got: Bootstrap) -> Cell:
    low, high = got.low * PERCENT, got.high * PERCENT
    return Cell(f"{got.estimate * PERCENT:.2f} [{low:.2f}, {high:.2f}]", got.estimate * PERCENT, got.note)


def step_ms(run: Run) -> float | None:
    """Median time of a step in ms; None where it was not logged."""
    timed = run.series.get("time/step_ms")
    if timed is None or not np.isfinite(timed.value).any():
        return None
    return float(np.median(timed.value[np.isfinite(timed.value)]))


def cost_table(frames: RunFrames) -> Table:
    """Time per step (also relative to the baseline), wall time, memory, and what the schedule did."""
    base = frames.base
    base_ms = per_seed(base, step_ms) if base else {}
    columns = [
        Column("configuration", numeric=False),
        Column("step\nms"),
        Column("step time\n/ baseline"),
        Column("run\ns"),
        Column("peak memory\nMB"),
        Column("updates: applied / held / dropped", numeric=False),
        Column("skipped\nsteps"),
    ]
    rows = []
    for c in frames.configurations:
        ms = per_seed(c, step_ms)
        ratio = None
        if ms and base_ms:
            ratio = float(np.mean(list(ms.values())) / np.mean(list(base_ms.values())))
        rows.append(
            [
                Cell(c.label),
                estimate(ms),
                number(ratio),
                estimate(per_seed(c, lambda r: r.number("seconds")), digits=1),
                estimate(per_seed(c, lambda r: r.number("peak_memory_mb")), digits=1),
                Cell(_counters(c, frames.modalities)),
                _skipped(c),
            ]
        )
    notes = ["Step: median over the run, then mean ± 95 % t interval over seeds. Counts: mean over seeds, per encoder."]
    table = Table("Cost and schedule", columns, rows, notes)
    table.strong = {i for i, c in enumerate(frames.configurations) if c is base and not frames.single}
    return table.without_empty()


def _counters(c: Configuration, modalities: list[str]) -> str:
    names = ("applied", "held", "dropped")
    counts = [{name: r.counter(name) for name in names} for r in c.finished]
    for run, count in zip(c.finished, counts):
        count["applied"] = count["applied"] or run.counter("updates")  # without a delay or a mask every update counts
    keys = [m for m in [*modalities, ""] if any(m in count[name] for count in counts for name in names)]
    lines = []
    for key in keys:
        means = [[v for count in counts if (v := count[name].get(key)) is not None] for name in names]
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
