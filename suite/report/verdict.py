"""What an experiment has shown, in words: the sentences that stand above all tables, null results among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from suite.report.frames import Configuration, RunFrames, Value
from suite.report.registry import report_of
from suite.report.statements import MARKS, Kind, Statement
from suite.report.summary import ALPHA, POWER, Comparison, compare, detectable
from suite.report.tables import PERCENT, signed

NAMED = 6  # rows that a sentence names; the others are counted


@dataclass(frozen=True)
class Measure:
    """What rows are compared by.

    Attributes:
        name: what it is called, e.g. `test error at the last epoch`.
        value: its reader, of a run.
        unit: the unit of a difference, in the plural.
        scale: the factor from the values to that unit.
        digits: the decimals that a difference is shown with.
        higher: whether higher is better.
        margin: the margin of equivalence, in the unit of the values; None for no such tests.
    """

    name: str
    value: Value
    unit: str = "points"
    scale: float = PERCENT
    digits: int = 1
    higher: bool = True
    margin: float | None = None


def verdict(frames: RunFrames) -> list[Statement]:
    """Say how many runs count where not all do, then what the program concludes from them."""
    build = report_of(frames.program).verdict
    found = [*_states(frames), *([] if build is None else build(frames))]
    return [s for s in found if s != DETECTABLE] + [DETECTABLE] * (DETECTABLE in found)


def _states(frames: RunFrames) -> list[Statement]:
    total, done = len(frames.runs), sum(run.finished for run in frames.runs)
    if done == total:
        return []
    counted = {status: sum(run.status == status for run in frames.runs) for status in ("failed", "stopped", "running")}
    told = ", ".join(f"{n} {status}" for status, n in counted.items() if n)
    kind: Kind = "failed" if counted["failed"] else "note"
    if not done:
        return [Statement(f"No run has finished yet ({told}): there is no result.", kind)]
    return [Statement(f"Only {done} of {total} runs have finished ({told}): the others count nowhere below.", kind)]


@dataclass(frozen=True)
class Wording:
    """How sentences on several rows name them.

    Attributes:
        against: the name of the partner that all rows have in common; "" where every row has its own.
        subject: the name of the row that all partners have in common; "" where rows differ.
        partners: what partners are called together.
    """

    against: str = ""
    subject: str = ""
    partners: str = "their partners"

    def name(self, row: str, other: str) -> str:
        """Return what tells one comparison from the others."""
        return other if self.subject else row if self.against else f"{row} to {other}"


def judged(
    pairs: Sequence[tuple[Configuration, Configuration]], measure: Measure, wording: Wording | None = None
) -> list[Statement]:
    """Judge every row against its partner, by paired tests over common seeds; all pairs are one family of Holm's.

    Args:
        pairs: each row with its partner.
        measure: what they are compared by.
        wording: how rows are named; without it, by their own name and their partner's.
    """
    found = compare(pairs, measure.value, measure.margin)
    told = [(row.label, other.label, c) for (row, other), c in zip(pairs, found, strict=True)]
    silent = [row.label for (row, _), c in zip(pairs, found, strict=True) if c.test is None and row.finished]
    unsaid = [Statement(f"Without a common seed, nothing can be said of: {listed(silent)}.")] if silent else []
    return in_words(told, measure, wording) + unsaid


def in_words(
    told: Sequence[tuple[str, str, Comparison]], measure: Measure, wording: Wording | None = None
) -> list[Statement]:
    """Say what comparisons of one family have shown, one sentence per outcome; `told`: row, partner, comparison."""
    wording = wording or Wording()
    outcomes: dict[tuple[Kind, int], list[tuple[str, str, Comparison]]] = {}
    for row, other, c in told:
        if c.test is not None:
            outcomes.setdefault((kind_of(c, measure.higher), c.test.n), []).append((row, other, c))
    order, tests = list(MARKS), sum(c.adjusted is not None for _, _, c in told)
    statements = []
    for kind, n in sorted(outcomes, key=lambda key: (order.index(key[0]), -key[1])):
        entries = sorted(outcomes[kind, n], key=lambda e: -_gain(e[2], measure))
        if len(entries) == 1:
            statements.append(Statement(_one(kind, n, entries[0], measure, tests), kind))
        else:
            statements.append(Statement(_several(kind, n, entries, measure, tests, wording), kind))
    if any(kind == "open" and n > 1 for kind, n in outcomes):
        statements.append(DETECTABLE)
    return statements


DETECTABLE = Statement(
    "Smallest detectable difference: what a two-sided paired t test at "
    f"{ALPHA:g} finds with {POWER * PERCENT:.0f} % power, from the observed standard deviation of the paired "
    "differences, before Holm. “No difference is shown” does not say that there is none."
)


def kind_of(c: Comparison, higher: bool = True) -> Kind:
    """Return what a comparison has shown: a difference after Holm, equivalence, or neither."""
    if c.test is None or c.test.n < 2:
        return "note"
    if c.adjusted is not None and c.adjusted < ALPHA:
        return "better" if (c.test.difference.mean > 0) == higher else "worse"
    if c.test.p is None:  # the differences do not vary
        return "same" if c.test.difference.mean == 0 else "open"
    return "same" if c.equivalent else "open"


def _gain(c: Comparison, measure: Measure) -> float:
    assert c.test is not None
    return c.test.difference.mean * (1 if measure.higher else -1)


def _amount(value: float, measure: Measure) -> str:
    return signed(value * measure.scale, measure.digits)


def _interval(c: Comparison, measure: Measure) -> str:
    assert c.test is not None
    d = c.test.difference
    if d.low is None or d.high is None:
        return _amount(d.mean, measure)
    return f"{_amount(d.mean, measure)} [{_amount(d.low, measure)}, {_amount(d.high, measure)}]"


def _reach(c: Comparison, measure: Measure) -> str:
    """Return the smallest detectable difference, "" where there is none; of shares no two lie further apart than 1."""
    least = None if c.test is None else detectable(c.test)
    if least is not None and measure.scale == PERCENT and least > 1:
        return f"more than {PERCENT:.0f}"
    return "" if least is None else f"{least * measure.scale:.{measure.digits}f}"


def _holm(tests: int) -> str:
    return f" after Holm over {tests} tests" if tests > 1 else ""


def _one(kind: Kind, n: int, entry: tuple[str, str, Comparison], measure: Measure, tests: int) -> str:
    """Say one comparison as a whole sentence."""
    row, other, c = entry
    assert c.test is not None
    seeds = f"With {n} seed{'s' * (n > 1)}"
    shown = f"{_interval(c, measure)} {measure.unit} of {measure.name}"
    if kind in ("better", "worse"):
        told = f"{row} is {kind} than {other}: {shown} (95 % interval)"
        return f"{seeds} {told}, p = {c.adjusted:.2g}{_holm(tests)}."
    if kind == "note":
        return f"{seeds} {row} lies {shown} from {other}: it may be the luck of the seed, and there is no test."
    if c.test.p is None:
        same = f"{row} and {other} have the same {measure.name} in every one"
        return f"{seeds} {same if kind == 'same' else f'{row} lies {shown} from {other} in every one: no test'}."
    if kind == "same":
        assert measure.margin is not None
        assert c.equivalence is not None
        margin = f"±{measure.margin * measure.scale:g} {measure.unit}"
        return f"{seeds} {row} and {other} are equal within {margin} (TOST, p = {c.equivalence.p:.2g}): {shown}."
    return (
        f"{seeds} no difference between {row} and {other} is shown: {shown} (95 % interval), p = {c.adjusted:.2g}"
        f"{_holm(tests)}; the smallest difference detectable is {_reach(c, measure)} {measure.unit}."
    )


def _undecided(c: Comparison, measure: Measure) -> str:
    """Say what a comparison that shows nothing could have shown, or that the correction alone speaks against it."""
    assert c.test is not None
    if c.test.p is not None and c.adjusted is not None and c.test.p < ALPHA:
        return f"; p = {c.test.p:.2g} alone, {c.adjusted:.2g} after Holm"
    reach = _reach(c, measure)
    return f"; detectable from {reach}" if reach else ""


def _several(
    kind: Kind, n: int, entries: Sequence[tuple[str, str, Comparison]], measure: Measure, tests: int, wording: Wording
) -> str:
    """Say comparisons of one outcome in one sentence, the largest gain first."""
    seeds, of = f"With {n} seed{'s' * (n > 1)}", f"{measure.unit} of {measure.name}"
    who = f" {wording.subject} is" if wording.subject else ""
    whom = "the following" if wording.subject else wording.against or wording.partners

    def told(row: str, other: str, c: Comparison) -> str:
        assert c.test is not None
        more = _undecided(c, measure) if kind == "open" else ""
        return f"{wording.name(row, other)} ({_amount(c.test.difference.mean, measure)}{more})"

    names = listed([told(*entry) for entry in entries])
    if kind in ("better", "worse"):
        return f"{seeds}{who} {kind} than {whom} (p < {ALPHA:g}{_holm(tests)}): {names}; {of}."
    if kind == "same":
        margin = "" if measure.margin is None else f" within ±{measure.margin * measure.scale:g} {measure.unit} (TOST)"
        return f"{seeds}{who} equal to {whom}{margin}: {names}; {of}."
    if kind == "note":
        return f"{seeds} differences to {whom} may be the luck of the seed: {names}; {of}."
    subject = f" of {wording.subject}" if wording.subject else ""
    return f"{seeds} no difference{subject} to {whom} is shown{_holm(tests)}: {names}; {of}."


def listed(names: Sequence[str]) -> str:
    """Join names; beyond `NAMED` the rest is counted."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f", and {rest} more (see the table)" if rest > 0 else "")
