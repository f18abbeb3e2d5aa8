"""From numbers to words: what a comparison over seeds may be said to show, and nothing beyond it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from suite.report.summary import ALPHA, Comparison, detectable
from suite.report.tables import PERCENT, difference, signed
from suite.statistics import PairedTest, smallest_margin

Kind = Literal["helps", "harms", "equivalent", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """What a comparison shows, as a kind to count and in words."""

    kind: Kind
    words: str


def points(margin: float) -> str:
    """Return `±1 point`."""
    return f"±{margin:g} point{'s' if margin != 1 else ''}"


def verdict(c: Comparison, margin: float) -> Verdict:
    """Return what a comparison shows.

    A difference is said to exist where p after Holm is below 0.05, and to be smaller than the margin where the test of
    equivalence is below 0.05; both may hold. Where neither does, nothing has been decided; nor where the rows are alike
    with every seed, because there is no test of that.

    Args:
        c: the comparison, in shares (0–1), with Holm's correction over its family.
        margin: the margin of its test of equivalence, in percentage points.
    """
    test = c.test
    if test is None:
        return Verdict("undecided", "undecided: no seed in common")
    if test.p is None:
        if test.n > 1 and test.difference.mean == 0:
            return Verdict("undecided", "undecided: the same number with every seed, no test")
        return Verdict("undecided", f"undecided: {test.note}")
    if c.adjusted is not None and c.adjusted < ALPHA:
        kind: Kind = "helps" if test.difference.mean > 0 else "harms"
        return Verdict(kind, f"{kind}, by less than {points(margin).lstrip('±')}" if c.equivalent else kind)
    if c.equivalent:
        return Verdict("equivalent", f"equivalent within {points(margin)}")
    return Verdict("undecided", f"undecided: interval {ends(test)}")


def ends(test: PairedTest) -> str:
    """Return the ends of the interval in percentage points, `[−0.31, +2.71]`."""
    low, high = test.difference.low, test.difference.high
    assert low is not None
    assert high is not None
    return f"[{signed(low * PERCENT)}, {signed(high * PERCENT)}]"


def told(c: Comparison, margin: float) -> str:
    """Return the numbers of a comparison as a clause: difference, interval, p after Holm, p of equivalence, verdict."""
    if c.test is None or c.test.p is None or c.adjusted is None:
        return verdict(c, margin).words
    same = "not tested" if c.equivalence is None or c.equivalence.p is None else f"{c.equivalence.p:.2g}"
    shown = difference(c.test.difference, PERCENT).text
    return f"{shown} points, p Holm {c.adjusted:.2g}, p within {points(margin)} {same}: {verdict(c, margin).words}"


def counted(verdicts: Sequence[Verdict], margin: float) -> str:
    """Return how many comparisons show what: `2 help, none harms, 5 equivalent within ±1 point, 1 undecided`."""
    found = Counter(v.kind for v in verdicts)
    helps, harms = ((str(found[kind]) if found[kind] else "none") for kind in ("helps", "harms"))
    words = [
        f"{helps} help{'s' * (found['helps'] < 2)}",
        f"{harms} harm{'s' * (found['harms'] < 2)}",
        f"{found['equivalent'] or 'none'} equivalent within {points(margin)}",
        f"{found['undecided'] or 'none'} undecided",
    ]
    return ", ".join(words)


def answer(verdicts: Sequence[Verdict], margin: float) -> str:
    """Return the answer that a family of comparisons gives to whether something helps, as a phrase."""
    n, kinds = len(verdicts), Counter(v.kind for v in verdicts)
    if not n:
        return "Not answered: nothing to compare has finished"
    every = f"all {n} comparisons" if n > 1 else "the one comparison"
    if kinds["helps"]:
        where = every if kinds["helps"] == n else f"{kinds['helps']} of {n} comparisons"
        return f"It helps in {where}" + (f" and harms in {kinds['harms']}" if kinds["harms"] else "")
    if kinds["equivalent"] == n:
        return f"No: equivalent within {points(margin)} in {every}"
    if kinds["harms"]:
        where = every if kinds["harms"] == n else f"{kinds['harms']} of {n} comparisons"
        rest = f", and {kinds['undecided']} are undecided" if kinds["undecided"] else ", and helps in none"
        return f"It harms in {where}{rest}"
    left = f"{kinds['undecided']} of {n} comparisons" if n > 1 else "the one comparison"
    return f"Undecided in {left}, and shown to help in none"


_confirmed = cache(smallest_margin)


def finds(test: PairedTest | None) -> float | None:
    """Return the difference, in percentage points, that so many seeds of this spread find with 80 % power (no Holm)."""
    least = None if test is None else detectable(test)
    return None if least is None else least * PERCENT


def confirms(test: PairedTest | None) -> float | None:
    """Return the smallest margin, in percentage points, within which these seeds confirm equal means, 80 % power."""
    if test is None or not test.difference.sd or test.n < 2:
        return None
    return _confirmed(test.n) * test.difference.sd * PERCENT
