"""What the summary of an experiment is made of: values per seed, paired tests against another row, their notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from suite.report.frames import Configuration, RunFrames, Value
from suite.report.registry import report_of
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, difference, p_value, texts
from suite.statistics import PairedTest, holm, paired_t, smallest_p

N_BOOT = 2000  # draws of a report's bootstrap


def summary(frames: RunFrames) -> list[Table]:
    """Build the summary tables of an experiment, as its program has registered them."""
    tables = report_of(frames.program).tables
    return [state_table(frames)] if tables is None else tables(frames)


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
    """

    test: PairedTest | None
    adjusted: float | None

    def cells(self, otherwise: str = ABSENT) -> list[Cell]:
        """Show the difference in percentage points with its interval, p, and p after Holm."""
        if self.test is None:
            return [Cell(otherwise), Cell(ABSENT), Cell(ABSENT)]
        delta = difference(self.test.difference, PERCENT)
        hint = f"{self.test.n} common seeds" + (f"; {self.test.note}" if self.test.note else "")
        return [Cell(delta.text, delta.value, hint), p_value(self.test.p, self.test.note), p_value(self.adjusted)]


def compare(pairs: Iterable[tuple[Configuration, Configuration | None]], value: Value) -> list[Comparison]:
    """Test every configuration against its partner; all pairs are one family of Holm's correction."""
    tests = [None if other is None else paired_test(c, other, value) for c, other in pairs]
    return [Comparison(test, p) for test, p in zip(tests, holm([test.p if test else None for test in tests]))]


def paired_test(c: Configuration, other: Configuration, value: Value) -> PairedTest | None:
    """Test c against another over their common seeds with finite values; None without a common seed."""
    a, b = per_seed(c, value), per_seed(other, value)
    common = [s for s in sorted(set(a) & set(b)) if np.isfinite([a[s], b[s]]).all()]
    return paired_t([a[s] for s in common], [b[s] for s in common]) if common else None


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
            note += f" Here (median spread) that is about {points:.1f} percentage points, before Holm."
        notes.append(note)
    return notes
