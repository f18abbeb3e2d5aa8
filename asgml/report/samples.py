"""The summary over test samples: kept predictions, bootstrapped over seeds and samples."""

from __future__ import annotations

import numpy as np

from asgml.report.answers import SampleAnswers, read_answers
from suite.report.frames import RunFrames
from suite.report.summary import N_BOOT
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, difference, p_value, texts
from suite.statistics import Bootstrap, Estimate, hierarchical_bootstrap, mcnemar

FEW_CLUSTERS = 10


def sample_table(frames: RunFrames) -> Table | None:
    """Compare accuracies over seeds and test samples from kept predictions; None where no run kept them."""
    kept = {
        c.label: {r.seed: p for r in c.finished if (p := read_answers(r)) is not None} for c in frames.configurations
    }
    if not any(kept.values()):
        return None
    base = kept.get(frames.baseline or "", {})
    reference = next(p for seeds in kept.values() for p in seeds.values())
    everything = [p for seeds in kept.values() for p in seeds.values()]
    common = all(_same(p, reference) for p in everything)
    groups, clustering = _clustered(everything, common)
    one_seed = bool(base) and all(len(set(seeds) & set(base)) <= 1 for seeds in kept.values())
    rows = []
    for c in frames.configurations:
        seeds = kept[c.label]
        row = texts(c.label, len(seeds))
        if not seeds:
            rows.append([*row, Cell(ABSENT), Cell(ABSENT), Cell(ABSENT)])
            continue
        row.append(_interval_cell(_bootstrap(seeds, None, common, groups)))
        if c.label == frames.baseline or not base:
            rows.append([*row, Cell("baseline" if base and not frames.single else ABSENT), Cell(ABSENT)])
            continue
        if not _same_samples(seeds, base):
            rows.append([*row, Cell(ABSENT, None, "other test samples than the baseline"), Cell(ABSENT)])
            continue
        got = _bootstrap(seeds, base, common, groups)
        delta = Estimate(got.estimate, got.low, got.high, got.n_samples, note=got.note)
        shared = sorted(set(seeds) & set(base))
        exact = mcnemar(seeds[shared[0]].correct, base[shared[0]].correct) if one_seed and shared and common else None
        hint = "" if exact is None else f"{exact.only_a} samples right only here, {exact.only_b} only in the baseline"
        rows.append([*row, difference(delta, PERCENT), p_value(exact.p if exact else None, hint)])
    size = f"{reference.y.size}" if common else "different"
    alone = all(len(seeds) <= 1 for seeds in kept.values())
    note = f"Percentile bootstrap ({N_BOOT} draws, best validation epoch) over "
    if alone:
        note += f"{size} test samples: how far the result would move on another test set."
    else:
        note += f"seeds and {size} test samples: how far the result would move on another test set as well. "
        note += "With few seeds the seed part of this interval is too narrow: over seeds, read the t interval."
    notes = [note, *clustering]
    if one_seed:
        told = "McNemar: exact test on the samples that only one of the two has right, for the one common seed."
        notes.append(told if groups is None else f"{told} It takes samples as independent, clusters or not.")
    head = columns("configuration", numbers=["seeds", "accuracy %\n[95 %]", "Δ accuracy\n[95 %]", "p\nMcNemar"])
    title = "Over test samples" if alone else "Over seeds and test samples"
    return Table(title, head, rows, notes, frames.baseline_rows).without_empty()


def _same_samples(a: dict[int, SampleAnswers], b: dict[int, SampleAnswers]) -> bool:
    """Return whether common seeds were tested on the same samples, so that their answers can be paired."""
    return all(_same(a[s], b[s]) for s in set(a) & set(b))


def _same(a: SampleAnswers, b: SampleAnswers) -> bool:
    return np.array_equal(a.index, b.index) and np.array_equal(a.y, b.y)


def _clustered(everything: list[SampleAnswers], common: bool) -> tuple[np.ndarray | None, list[str]]:
    """Return the cluster of each sample, None where samples are drawn one by one, and what to say of it.

    Runs whose file has no groups take those of the others, as all have the same samples.
    """
    grouped = next((p for p in everything if p.group is not None), None)
    if grouped is None:
        return None, []
    if not common:
        return None, ["Not clustered, though samples come in groups: the runs were tested on different samples."]
    by, n = grouped.grouped_by, grouped.clusters
    if n == 1:
        return None, [f"All test samples are of one {by}: this cannot say how far the result moves with another {by}."]
    told = f"Clustered by {by}: {n} clusters are drawn as wholes, because samples of one {by} are alike."
    few = f" With fewer than {FEW_CLUSTERS} of them the interval is too narrow." if n < FEW_CLUSTERS else ""
    return grouped.group, [told + few]


def _bootstrap(
    a: dict[int, SampleAnswers], b: dict[int, SampleAnswers] | None, common: bool, groups: np.ndarray | None
) -> Bootstrap:
    right_a = {s: p.correct for s, p in a.items()}
    right_b = None if b is None else {s: p.correct for s, p in b.items()}
    if common:
        return hierarchical_bootstrap(right_a, right_b, groups=groups, n_boot=N_BOOT)
    return hierarchical_bootstrap(right_a, right_b, n_boot=N_BOOT, samples="nested")


def _interval_cell(got: Bootstrap) -> Cell:
    low, high = got.low * PERCENT, got.high * PERCENT
    return Cell(f"{got.estimate * PERCENT:.2f} [{low:.2f}, {high:.2f}]", got.estimate * PERCENT, got.note)
