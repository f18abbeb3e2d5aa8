"""The tables of the page: what feedback gains and its loops, and what the variants do in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from asgml.feedback.metrics.loops import WITHIN
from asgml.feedback.report.tables import TITLES, loop_table, loops_of, metric
from asgml.model.cross_attention import VARIANTS
from asgml.report.naming import metric as accuracy
from callbacks.stages.gradient_share import THRESHOLD
from suite.report import RunRecord, group_runs
from suite.report.frames import Configuration, Value
from suite.report.summary import Comparison, limit_notes, per_seed, state
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, difference, estimate, p_value, texts
from suite.statistics import PairedTest, mean_interval, paired_t

BASE = "base"
COMPARED = ("pixel_auroc", "aupro", WITHIN)
CHANCE = 0.5
SHARE, RATIO, LOSS = "share/image_adapter", "share/norm_ratio", "train/loss/image"


def by_label(runs: Sequence[RunRecord]) -> dict[str, Configuration]:
    """Return configurations, which are runs over seeds, by their labels."""
    return {c.label: c for frames in group_runs(runs) for c in frames.configurations} if runs else {}


def per_loop(runs: Sequence[RunRecord]) -> list[Table]:
    """Return the metrics after every loop, and what they gain, of the runs with and without feedback."""
    known = by_label(runs)
    tables = [loop_table(frames) for frames in group_runs(runs, BASE)]
    for table in tables:
        table.title = ""
    others = [c for c in known.values() if c.label != BASE and c.finished]
    return [*tables, gains(known[BASE], others)] if BASE in known and others else tables


def gains(base: Configuration, others: Sequence[Configuration]) -> Table:
    """Return differences paired by seed: of the last and the first loop to the base, and of the last to the first."""
    pairs = []
    for c in others:
        last = loops_of(c)
        pairs += [
            (f"{c.label}: loop {last} − base", c, f"/loop{last}", base, "/loop1"),
            (f"{c.label}: loop 1 − base", c, "/loop1", base, "/loop1"),
            (f"{c.label}: loop {last} − loop 1", c, f"/loop{last}", c, "/loop1"),
        ]
    rows, tests = [], []
    for title, a, after_a, b, after_b in pairs:
        cells = texts(title)
        for name in COMPARED:
            found = paired(a, metric(name + after_a), b, metric(name + after_b))
            cells += [Cell(ABSENT), Cell(ABSENT)] if found is None else difference_cells(found)
            tests += [] if found is None else [Comparison(found, None)]
        rows.append(cells)
    head = columns("paired by seed", numbers=[t for n in COMPARED for t in (f"Δ {TITLES[n]}", "p")])
    notes = ["Percentage points with 95 % t intervals.", *limit_notes(tests)]
    return Table("", head, rows, [*notes, *on_validation(base, others), *at_chance(base)])


def on_validation(base: Configuration, others: Sequence[Configuration]) -> list[str]:
    """Say what feedback gains on the pictures that choose the weights: a gain that is lost at test does not carry."""
    found = {c.label: paired(c, best_validation, base, best_validation) for c in others}
    told = [f"{name} {difference(t.difference, PERCENT).text}" for name, t in found.items() if t is not None]
    if not told:
        return []
    return [f"Last loop − base in pixel AUROC on validation, which is of what was trained on: {', '.join(told)}."]


def at_chance(base: Configuration) -> list[str]:
    """Warn where the base itself is not shown to be above chance: nothing can be compared with it."""
    found = per_seed(base, metric("pixel_auroc"))
    got = mean_interval(list(found.values())) if found else None
    if got is None or got.low is None or got.low > CHANCE:
        return []
    return [f"**The base is not shown to be above chance** (pixel AUROC {CHANCE:g}): these differences say nothing."]


def best_validation(run: RunRecord) -> float | None:
    """Return the pixel AUROC of the last loop on validation, of the weights that were chosen by it."""
    found = (run.result.get("val_best") or {}).get("pixel_auroc")
    return None if found is None else float(found)


def difference_cells(test: PairedTest) -> list[Cell]:
    """Return the difference with its interval, and p."""
    return [difference(test.difference, PERCENT), p_value(test.p, test.note)]


def paired(a: Configuration, of_a: Value, b: Configuration, of_b: Value) -> PairedTest | None:
    """Return the test over the seeds that both have; None without one."""
    left, right = per_seed(a, of_a), per_seed(b, of_b)
    common = sorted(left.keys() & right.keys())
    return paired_t([left[s] for s in common], [right[s] for s in common]) if common else None


def trained_variants(runs: Sequence[RunRecord]) -> Table:
    """Return what a variant leaves to the image adapters in training, and whether the loss falls."""
    rows = []
    known = by_label(runs)
    for name, c in ((n, known[n]) for n in (*VARIANTS, *(known.keys() - VARIANTS.keys())) if n in known):
        warned = [run for run in c.finished if warns(run)]
        starts, ends = (per_seed(c, first_epoch(part)) for part in (0, -1))
        falls = sum(ends[s] < starts[s] for s in starts)
        rows.append(
            [
                *texts(name, state(c)),
                estimate(per_seed(c, mean_of(SHARE))),
                estimate(per_seed(c, mean_of(RATIO)), digits=3),
                *texts(f"{len(warned)} of {len(c.finished)}"),
                estimate(starts),
                estimate(ends),
                *texts(f"{falls} of {len(starts)}"),
                estimate(per_seed(c, metric("pixel_auroc")), PERCENT),
            ]
        )
    head = columns(
        "variant",
        numbers=[
            "seeds",
            "share of the\nadapters' gradient",
            "branch/stream\nnorm",
            f"warned of:\nbelow {THRESHOLD:g}",
            "image loss,\nfirst quarter",
            "last quarter",
            "falls within\nthe first epoch",
            "test pixel\nAUROC %",
        ],
    )
    notes = [
        "±: half of the 95 % t interval over seeds. Loss: of the first epoch of stage 2, by quarters of its steps. "
        "It also falls by the projections behind the branch, which no variant starves."
    ]
    return Table("", head, rows, notes)


def fusions(runs: Sequence[RunRecord]) -> Table:
    """Return accuracy, and what the fusion's branches leave to the encoders, of runs of `asgml.run`."""
    known = by_label(runs)
    shares = sorted({n for run in runs for n in run.series if n.startswith("share/") and n.count("/") == 1} - {RATIO})
    rows = []
    for name, c in known.items():
        found = [estimate(per_seed(c, mean_of(n))) for n in shares]
        size = estimate(per_seed(c, mean_of(RATIO)), digits=3)
        rows.append([*texts(name, state(c)), estimate(per_seed(c, accuracy("test_best")), PERCENT), *found, size])
    titles = [f"share of\n{n.removeprefix('share/')}" for n in shares]
    head = columns("fusion", numbers=["seeds", "test\naccuracy %", *titles, "branch/stream\nnorm"])
    notes = ["Best validation. Shares: means over a run's measurements. ±: half of the 95 % t interval over seeds."]
    return Table("", head, rows, notes)


def warns(run: RunRecord) -> bool:
    """Return whether `BranchShare` has warned of the image adapters."""
    found = (run.result.get("counters") or {}).get("branch_share") or {}
    return "image_adapter" in found.get("warned", [])


def mean_of(name: str) -> Callable[[RunRecord], float | None]:
    """Return what reads the mean of a logged series."""
    return lambda run: float(run.series[name].value.mean()) if name in run.series else None


def first_epoch(quarter: int) -> Callable[[RunRecord], float | None]:
    """Return what reads the mean image loss of a quarter (0 to 3, or -1) of the steps of its first epoch."""

    def read(run: RunRecord) -> float | None:
        series = run.series.get(LOSS)
        if series is None:
            return None
        values = series.value[series.epoch == series.epoch.min()]
        return float(np.array_split(values, 4)[quarter].mean()) if values.size >= 4 else None

    return read
