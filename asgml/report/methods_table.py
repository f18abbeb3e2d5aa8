"""Every method of an experiment in one table, and every asynchronous one against its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from asgml.report.floor import floor_of, floor_rows
from asgml.report.naming import metric
from asgml.report.results import step_ms
from asgml.report.tuned import TunedRow, budget_notes
from suite.report.frames import Configuration, RunFrames
from suite.report.summary import Comparison, compare, equivalence_note, limit_notes, per_seed, seeds_notes, state
from suite.report.tables import ABSENT, INTERVALS, PERCENT, Table, columns, estimate, number, texts

SPLITS = {"test": "last epoch", "test_best": "best val. epoch"}
DIFFERENCE = ("Δ\n{at} [95 %]", "p\n{at}", "p Holm\n{at}")
EQUIVALENCE = "p within ±{margin:g}\n{at}"
MARGIN = 1.0  # percentage points within which two methods count as equivalent
# A control stands below the method whose side effect it isolates.
BELOW = {
    "control_lr_matched": "asgml_frequency",
    "control_random_skip": "asgml_frequency",
    "control_scale_only": "asgml_staleness",
    "control_all_delayed": "asgml_staleness",
    "control_adaptive_scale_only": "asgml_adaptive",
    "control_adaptive_all_delayed": "asgml_adaptive",
    "control_yoked_scale": "asgml_adaptive",
    "control_yoked_lr": "asgml_adaptive",
    "control_yoked_swap": "asgml_adaptive",
    "control_yoked_skip": "asgml_adaptive_frequency",
}


def controlled(tuned: Mapping[str, TunedRow]) -> dict[str, str]:
    """Return the row above every control, by label: of the sweep over methods, and of tuned rows."""
    return BELOW | {row.name: row.of for row in tuned.values() if row.of}


def ordered(frames: RunFrames, below: Mapping[str, str] = BELOW) -> list[Configuration]:
    """Order the baseline first, the others by name, every control below its method."""

    def place(c: Configuration) -> tuple[bool, str, bool, str]:
        above = below.get(c.label)
        return c.label != frames.baseline, above or c.label, above is not None, c.label

    return sorted(frames.configurations, key=place)


def relative(c: Configuration, base: Configuration | None) -> float | None:
    """Return the step time over the baseline's: the median over common seeds."""
    mine, theirs = per_seed(c, step_ms), {} if base is None else per_seed(base, step_ms)
    ratios = [v / theirs[seed] for seed, v in mine.items() if theirs.get(seed)]
    return float(np.median(ratios)) if ratios else None


def same_numbers(c: Configuration, base: Configuration) -> bool:
    """Return whether all common seeds end with the very same test loss and accuracy."""
    values = [(per_seed(c, f), per_seed(base, f)) for f in (metric("test"), metric("test", "loss"))]
    return all((seeds := set(a) & set(b)) and all(a[s] == b[s] for s in seeds) for a, b in values)


def method_table(
    frames: RunFrames,
    registered: Sequence[str] = (),
    times: bool = True,
    margin: float = MARGIN,
    tuned: Mapping[str, TunedRow] = MappingProxyType({}),
) -> Table:
    """Build the table of one experiment.

    Args:
        frames: the experiment's runs.
        registered: the names of all methods, to say which have not been run.
        times: whether to show what a step took, which is right only where no run shared its machine with another.
        margin: the margin of equivalence, in percentage points.
        tuned: the rows that were tuned, by label.
    """
    base, order = frames.base, ordered(frames, controlled(tuned))
    pairs = [(c, None if c is base else base) for c in order]
    found = {split: compare(pairs, metric(split), margin / PERCENT) for split in SPLITS}
    shown = ("accuracy %\n{at}", *DIFFERENCE, EQUIVALENCE)
    numbers = [what.format(at=at, margin=margin) for at in SPLITS.values() for what in shown]
    numbers += ["step time\n/ joint"] * times + ["peak memory\nMB"]
    rows = []
    for i, c in enumerate(order):
        row = texts(c.label, state(c))
        row += texts(at.budget, at.chosen) if (at := tuned.get(c.label)) else texts(ABSENT, ABSENT)
        for split, comparisons in found.items():
            row.append(estimate(per_seed(c, metric(split)), PERCENT))
            row += [*comparisons[i].cells("baseline" if c is base else ABSENT), comparisons[i].equivalence_cell()]
        row += [number(relative(c, base))] * times
        rows.append([*row, estimate(per_seed(c, lambda run: run.number("peak_memory_mb")), digits=0)])
    head = [*columns("method", numbers=["seeds", "trials"]), *columns("chosen point", numbers=numbers)]
    floor, verdict = floor_of(frames)
    notes = [*verdict, *_notes(frames, found, registered, times, margin, tuned)]
    compared = len(rows)
    rows += floor_rows(head, floor)
    outside = set(range(compared, len(rows)))
    strong = {i for i, c in enumerate(order) if c is base}
    return Table(f"Methods on {frames.title}", head, rows, notes, strong, outside).without_empty()


def control_table(
    frames: RunFrames, margin: float = MARGIN, tuned: Mapping[str, TunedRow] = MappingProxyType({})
) -> Table | None:
    """Build the table of every asynchronous row minus each of its controls; None without any pair.

    Its margin of equivalence is in percentage points. A gain over joint that the control has as well is not one of
    asynchrony.
    """
    by_label = {c.label: c for c in frames.configurations}
    below = controlled(tuned)
    pairs = [(by_label[below[c.label]], c) for c in ordered(frames, below) if below.get(c.label) in by_label]
    if not pairs:
        return None
    numbers = [what.format(at=at, margin=margin) for at in SPLITS.values() for what in (*DIFFERENCE, EQUIVALENCE)]
    head = columns("method", "control", numbers=numbers)
    found = [compare(pairs, metric(split), margin / PERCENT) for split in SPLITS]
    rows = [
        [*texts(row.label, control.label), *(cell for c in both for cell in (*c.cells(), c.equivalence_cell()))]
        for (row, control), *both in zip(pairs, *found, strict=True)
    ]
    notes = [
        "Δ: percentage points of test accuracy of the method minus its control, which has the side effect (fewer or "
        "smaller updates, equal delays) without the asynchrony; paired by seed, 95 % t interval; Holm over the rows.",
        *equivalence_notes(found[-1], margin, [f"{row.label} to {control.label}" for row, control in pairs]),
    ]
    return Table(f"Asynchrony against its controls on {frames.title}", head, rows, notes).without_empty()


def equivalence_notes(found: Sequence[Comparison], margin: float, names: Sequence[str]) -> list[str]:
    """Say what the tests of equivalence are, and name the pairs that have been shown to be equivalent; [] without any.

    Args:
        found: the comparisons at the best validation epoch.
        margin: the margin, in percentage points.
        names: what each comparison is of.
    """
    if not any(c.equivalence is not None for c in found):
        return []
    shown = [
        f"{name} (p {c.equivalence.p:.3g})"
        for name, c in zip(names, found, strict=True)
        if c.equivalent and c.equivalence is not None
    ]
    points = f"±{margin:g} point{'s' if margin != 1 else ''}"
    verdict = f"Equivalent within {points} ({SPLITS['test_best']}): {', '.join(shown) or 'shown for no row'}."
    return [equivalence_note(found, margin), verdict]


def _notes(
    frames: RunFrames,
    found: Mapping[str, Sequence[Comparison]],
    registered: Sequence[str],
    times: bool,
    margin: float,
    tuned: Mapping[str, TunedRow],
) -> list[str]:
    notes = [f"{INTERVALS} — means not measured."]
    if frames.base is None:
        notes.append("No joint run, hence no differences: run method=joint, or name a row with --baseline.")
    else:
        last, best = (sum(c.adjusted is not None for c in comparisons) for comparisons in found.values())
        notes.append(
            f"Δ: percentage points of test accuracy against “{frames.baseline}”, paired by seed, with its 95 % t "
            f"interval; p: paired t test; Holm over {last} tests (last epoch) and {best} (best validation epoch), "
            "where a test exists. Model selection is on validation only."
        )
        notes += seeds_notes(frames)
    notes += limit_notes(found["test_best"])
    rows = ordered(frames, controlled(tuned))
    notes += equivalence_notes(found["test_best"], margin, [f"{c.label} to {frames.baseline}" for c in rows])
    if times:
        notes.append(
            "Step time: as it was in the runs (median over the run, ratio per common seed, median over seeds), "
            "whatever else the machine did; asgml.bench.method_costs takes turns."
        )
    notes.append(
        "Peak memory: allocated on the accelerator where one is used, else resident, data and libraries included."
    )
    shown = {c.label: tuned[c.label] for c in frames.configurations if c.label in tuned}
    if shown:
        notes.append(
            "Tuned rows: every row had the trials named, from the same distribution of the learning rate and its own "
            "one or two knobs, the default point among them; chosen on validation with seeds that are not shown here."
        )
        notes += budget_notes(shown)
    if any(c.label in BELOW for c in frames.configurations):
        notes.append("A control_… row has the side effect of the row above it, without its asynchrony.")
    if frames.base is not None:
        twins = [c.label for c in frames.configurations if c is not frames.base and same_numbers(c, frames.base)]
        if twins:
            notes.append(
                f"{', '.join(twins)}: the same numbers as {frames.baseline} with every seed: nothing of it acted."
            )
    there = {c.label.removeprefix("method=") for c in frames.configurations}
    missing = [name for name in registered if name not in there]
    if missing:
        notes.append(f"Not run here: {', '.join(missing)}.")
    return notes + frames.notes
