"""What the summary of an experiment is made of: values per seed, paired tests against another row, their notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from suite.report.frames import Configuration, RunFrames, Value
from suite.report.registry import report_of
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, difference, p_value, signed, texts
from suite.statistics import Equivalence, PairedTest, holm, paired_t, smallest_margin, smallest_p, tost

N_BOOT = 2000  # draws of a report's bootstrap
ALPHA = 0.05  # of all tests
POWER = 0.8  # at which a smallest detectable difference is told
FEWEST = 3  # common seeds for a test of equivalence


def summary(frames: RunFrames) -> list[Table]:
    """Build an experiment's tables as its program has registered them, what is wrong with its runs first."""
    sick, tables = health(frames), report_of(frames.program).tables
    found = [state_table(frames)] if tables is None else tables(frames)
    return found if sick is None else [sick, *found]


def health(frames: RunFrames) -> Table | None:
    """Return what the program finds wrong with the runs, None where it finds nothing or does not look."""
    build = report_of(frames.program).health
    return None if build is None else build(frames)


def state_table(frames: RunFrames, notes: Sequence[str] = ()) -> Table:
    """Tell of every configuration how many of its runs have finished."""
    rows = [texts(c.label, state(c)) for c in frames.configurations]
    return Table("Runs", columns("configuration", numbers=["seeds"]), rows, [*notes])


def state(c: Configuration) -> str:
    """Return `5`, or `3 of 5 (1 failed, 1 running)`."""
    finished, total = len(c.finished), len(c.runs)
    if finished == total:
        return str(total)
    others = [f"{n} {status}" for status in ("failed", "stopped", "running") if (n := c.count(status))]
    return f"{finished} of {total} ({', '.join(others)})"


def per_seed(c: Configuration, value: Value) -> dict[int, float]:
    """Return seed -> value over the finished runs that have it."""
    return {run.seed: v for run in c.finished if (v := value(run)) is not None}


@dataclass(frozen=True)
class Comparison:
    """One configuration against another.

    Attributes:
        test: the paired test over their common seeds; None without a common seed, and for the baseline itself.
        adjusted: the p value after Holm's correction over the family.
        equivalence: the test of equivalence over the same seeds; None without a margin or with fewer than `FEWEST`.
    """

    test: PairedTest | None
    adjusted: float | None
    equivalence: Equivalence | None = None

    def cells(self, otherwise: str = ABSENT) -> list[Cell]:
        """Show the difference in percentage points with its interval, p, and p after Holm."""
        if self.test is None:
            return [Cell(otherwise), Cell(ABSENT), Cell(ABSENT)]
        delta = difference(self.test.difference, PERCENT)
        hint = f"{self.test.n} common seeds" + (f"; {self.test.note}" if self.test.note else "")
        return [Cell(delta.text, delta.value, hint), p_value(self.test.p, self.test.note), p_value(self.adjusted)]

    @property
    def equivalent(self) -> bool:
        """Whether the difference has been shown to lie within the margin."""
        return self.equivalence is not None and self.equivalence.p is not None and self.equivalence.p < ALPHA

    def equivalence_cell(self) -> Cell:
        """Show the p value of the test of equivalence, with the 90 % interval as its hint."""
        found = self.equivalence
        if found is None or found.low is None or found.high is None:
            return Cell(ABSENT, None, found.note if found else "")
        ends = f"[{signed(found.low * PERCENT)}, {signed(found.high * PERCENT)}]"
        return p_value(found.p, f"{1 - 2 * ALPHA:.0%} interval {ends}, {found.n} common seeds")


def compare(
    pairs: Iterable[tuple[Configuration, Configuration | None]], value: Value, margin: float | None = None
) -> list[Comparison]:
    """Test every configuration against its partner; all pairs are one family of Holm's correction.

    Args:
        pairs: each configuration with its partner, None for one that has none.
        value: what is compared, of a run.
        margin: the margin of the tests of equivalence, in the unit of the values; None for no such tests.
    """
    values = [None if other is None else common_values(c, other, value) for c, other in pairs]
    tests = [paired_t(*both) if both and both[0] else None for both in values]
    same = [
        tost(*both, margin, ALPHA) if margin is not None and both and len(both[0]) >= FEWEST else None
        for both in values
    ]
    adjusted = holm([test.p if test else None for test in tests])
    return [Comparison(*parts) for parts in zip(tests, adjusted, same, strict=True)]


def common_values(c: Configuration, other: Configuration, value: Value) -> tuple[list[float], list[float]]:
    """Return the finite values of the two over their common seeds, in the same order."""
    a, b = per_seed(c, value), per_seed(other, value)
    common = [s for s in sorted(set(a) & set(b)) if np.isfinite([a[s], b[s]]).all()]
    return [a[s] for s in common], [b[s] for s in common]


def equivalence_note(found: Sequence[Comparison], margin: float) -> str:
    """Say what the column of the tests of equivalence means, and from what margin on the seeds could confirm one."""
    points = f"percentage point{'s' if margin != 1 else ''}"
    note = (
        f"p within ±{margin:g}: two one-sided paired t tests (TOST, from {FEWEST} common seeds on) that the difference "
        f"lies within ±{margin:g} {points}, not corrected for the number of rows. Below {ALPHA:g} the 90 % interval "
        "lies within the margin; a large p says that this has not been shown, not that the rows differ."
    )
    tests = [c.test for c in found if c.equivalence is not None and c.test is not None and c.test.difference.sd]
    for n in sorted({t.n for t in tests}):
        spread = float(np.median([t.difference.sd for t in tests if t.n == n and t.difference.sd])) * PERCENT
        least = smallest_margin(n) * spread
        note += f" {n} seeds of the median spread confirm equal means with 80 % power within ±{least:.1f} or more."
    return note


def detectable(test: PairedTest) -> float | None:
    """Return the smallest mean difference that so many pairs of this spread find, in the unit of the values.

    It is `dz * s_d`: s_d the observed standard deviation of the paired differences, dz the standardised difference that
    a two-sided paired t test at ALPHA finds with POWER (see `smallest_p`, by the noncentral t distribution). None where
    there is no test. It says what the design can show, and takes nothing from the observed difference.
    """
    if test.p is None or test.difference.sd is None:
        return None
    dz = _detectable_dz(test.n)
    return None if dz is None else dz * test.difference.sd


@cache
def _detectable_dz(n: int) -> float | None:
    return smallest_p(n, ALPHA, POWER).detectable_dz


def seeds_notes(frames: RunFrames) -> list[str]:
    """Say that differences are over common seeds, and not those of the means, where rows have others as well."""
    seeds = {frozenset(run.seed for run in c.finished) for c in frames.configurations if c.finished}
    told = "Rows have unequal seeds: Δ is over those that both have, and not the difference of the means shown."
    return [told] if len(seeds) > 1 else []


def limit_notes(found: Iterable[Comparison], counts: Iterable[int] = ()) -> list[str]:
    """Say what the numbers of seeds can show at best; `counts` are those to speak of where nothing was tested."""
    tests = [c.test for c in found if c.test is not None]
    notes = []
    for n in sorted({t.n for t in tests} or set(counts)):
        limits = smallest_p(n)
        note = limits.sentence
        spreads = [t.difference.sd for t in tests if t.n == n and t.difference.sd]
        if spreads and limits.detectable_dz is not None:
            points = limits.detectable_dz * float(np.median(spreads)) * PERCENT
            told = f"about {points:.1f}" if points <= PERCENT else f"more than {PERCENT:.0f}"
            note += f" Here (median spread) that is {told} percentage points, before Holm."
        notes.append(note)
    return notes
