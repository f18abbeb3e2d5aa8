"""The summary over test samples: kept predictions, bootstrapped over seeds and samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from callbacks.errors import UserError
from suite.report.data import RunRecord
from suite.report.frames import RunFrames
from suite.report.summary import N_BOOT
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, difference, p_value, texts
from suite.statistics import Bootstrap, Estimate, hierarchical_bootstrap, mcnemar

TEST = 2  # the test split's code in predictions.npz, see asgml.train.predictions


@dataclass(frozen=True)
class SampleAnswers:
    """A run's answers to the test split, ascending in index.

    Attributes:
        index: (n,) the samples' positions in the split's table.
        y: (n,) their labels.
        correct: (n,) whether the fused prediction is right.
        group: (n,) the clusters of the samples, None without clusters.
    """

    index: np.ndarray
    y: np.ndarray
    correct: np.ndarray
    group: np.ndarray | None


def read_answers(run: RunRecord) -> SampleAnswers | None:
    """Read the test predictions at the best validation epoch; None where there are none, and in a regression."""
    path = run.path / "predictions_best.npz"
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {k: stored[k] for k in stored.files}
    except (ValueError, OSError, EOFError) as error:
        raise UserError(str(path), str(error), "an .npz without pickled arrays", f"rm {path}") from error
    if "value" in arrays:
        return None
    missing = {"index", "y", "split", "prob"} - set(arrays)
    if missing:
        raise UserError(str(path), f"no array {sorted(missing)[0]!r}", "index, y, split, prob", f"rm {path}")
    rows = np.flatnonzero(arrays["split"] == TEST)
    if rows.size == 0:
        return None
    rows = rows[np.argsort(arrays["index"][rows], kind="stable")]
    y = arrays["y"][rows]
    group = arrays["group"][rows] if "group" in arrays else None
    return SampleAnswers(arrays["index"][rows], y, arrays["prob"][rows].argmax(1) == y, group)


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
    common = all(np.array_equal(p.index, reference.index) and np.array_equal(p.y, reference.y) for p in everything)
    one_seed = bool(base) and all(len(set(seeds) & set(base)) <= 1 for seeds in kept.values())
    rows = []
    for c in frames.configurations:
        seeds = kept[c.label]
        row = texts(c.label, len(seeds))
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
        note += "With few seeds the seed part of this interval is too narrow: over seeds, read the t interval."
    notes = [note]
    if one_seed:
        notes.append("McNemar: exact test on the samples that only one of the two has right, for the one common seed.")
    head = columns("configuration", numbers=["seeds", "accuracy %\n[95 %]", "Δ accuracy\n[95 %]", "p\nMcNemar"])
    title = "Over test samples" if alone else "Over seeds and test samples"
    return Table(title, head, rows, notes, frames.baseline_rows).without_empty()


def _same_samples(a: dict[int, SampleAnswers], b: dict[int, SampleAnswers]) -> bool:
    """Return whether common seeds were tested on the same samples, so that their answers can be paired."""
    return all(np.array_equal(a[s].index, b[s].index) and np.array_equal(a[s].y, b[s].y) for s in set(a) & set(b))


def _bootstrap(a: dict[int, SampleAnswers], b: dict[int, SampleAnswers] | None, common: bool) -> Bootstrap:
    first = next(iter(a.values()))
    right_a = {s: p.correct for s, p in a.items()}
    right_b = None if b is None else {s: p.correct for s, p in b.items()}
    if common:
        return hierarchical_bootstrap(right_a, right_b, groups=first.group, n_boot=N_BOOT)
    return hierarchical_bootstrap(right_a, right_b, n_boot=N_BOOT, samples="nested")


def _interval_cell(got: Bootstrap) -> Cell:
    low, high = got.low * PERCENT, got.high * PERCENT
    return Cell(f"{got.estimate * PERCENT:.2f} [{low:.2f}, {high:.2f}]", got.estimate * PERCENT, got.note)
