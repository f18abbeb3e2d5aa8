"""The predictions of docs/theory.md, section 4, held against the study: each with what was found and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from asgml.tune.page.evidence import JOINT, UNIFORM, Evidence
from asgml.tune.page.questions import HARD, TEST, Pair
from asgml.tune.page.times import Stretch, dominant, load, plain_sgd, stretch, times
from asgml.tune.page.wording import points, told
from suite.report.summary import ALPHA, FEWEST, per_seed
from suite.report.tables import PERCENT, Table, columns, difference, texts
from suite.statistics import PairedTest, holm, paired_t

Verdict = Literal["held", "refuted", "undecided", "not tested"]
DELAYS = ("staleness_1_inverse", "staleness_2_inverse", "staleness_4_inverse")  # with the factor c
EVERY_DELAY = tuple(f"staleness_{tau}_{c}" for c in ("none", "inverse", "delay_compensated") for tau in (1, 2, 4))
SMALL, LARGE = 0.2, 1.0  # loads below and above which section 4 says something of a delay
UNSTABLE_STRETCH = 1.63  # by a delay alone, at a load below 1: refutes the law
STRETCH = (1.0, 1.41)  # of a delay of two steps alone
SAME_TIME = 0.03  # of frequency and its learning rate


@dataclass(frozen=True)
class Held:
    """One prediction.

    Attributes:
        number: its number in docs/theory.md.
        predicted: what was predicted.
        found: what the runs show.
        verdict: what becomes of it.
    """

    number: str
    predicted: str
    found: str
    verdict: Verdict


def joined(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on a prediction that is made of every data set: refuted by one, held only by all."""
    tested = [v for v in verdicts if v != "not tested"]
    if not tested:
        return "not tested"
    return "refuted" if "refuted" in tested else "held" if all(v == "held" for v in tested) else "undecided"


def same(pair: Pair, margin: float) -> Verdict:
    """Return whether two rows are equivalent: refuted where the whole interval lies beyond the margin.

    A difference that is no more than shown to exist does not refute it.
    """
    test = pair.found.test
    if test is None or test.p is None:
        return "undecided"
    if pair.found.equivalent:
        return "held"
    low, high = test.difference.low, test.difference.high
    assert low is not None
    assert high is not None
    adjusted = pair.found.adjusted
    beyond = low * PERCENT > margin or high * PERCENT < -margin
    return "refuted" if beyond and adjusted is not None and adjusted < ALPHA else "undecided"


def delay_alone(sets: Sequence[Evidence]) -> Held:
    """1: what a delay of two steps alone adds to the dominant modality's time, measured against the factor alone."""
    words, verdicts = [], list[Verdict]()
    for data in sets:
        m, row = dominant(data), DELAYS[1]
        found = None if m is None else stretch(times(data, row, m), times(data, f"{row}/scale_only", m))
        if found is None:
            continue
        at = load(data.runs(row))
        words.append(f"{data.name}: {found}, load {'not measured' if at is None else f'{at:.2g}'}")
        verdicts.append(_stretched(found, at))
    limits = f"between {STRETCH[0]:g} and {STRETCH[1]:g} times, never above {UNSTABLE_STRETCH:g} at a load below 1"
    predicted = f"a delay of 2 alone (`staleness_2_inverse` over its `scale_only`) stretches the dominant time {limits}"
    return Held("1", predicted, "; ".join(words) or "no times: probes or unimodal rows are missing", joined(verdicts))


def _stretched(found: Stretch, at: float | None) -> Verdict:
    if found.low is None or found.high is None or at is None or at >= LARGE:
        return "undecided"
    if found.low > UNSTABLE_STRETCH:
        return "refuted"
    return "held" if STRETCH[0] <= found.low and found.high <= STRETCH[1] else "undecided"


def frequency_is_its_rate(sets: Sequence[Evidence], pairs: Sequence[Pair], margin: float) -> list[Held]:
    """2: `frequency` hard and `lr_matched` have the same accuracy, and the same time."""
    control = f"{HARD}/lr_matched"
    sets = [data for data in sets if plain_sgd(data)]
    names = {data.name for data in sets}
    own = [p for p in pairs if (p.row, p.other) == (HARD, control) and p.data in names]
    words = [f"{p.data}: {told(p.found, margin)}" for p in own]
    predicted = f"`{HARD}` and its `lr_matched` have equivalent accuracies (TOST, {points(margin)}), plain SGD"
    first = Held("2", predicted, "; ".join(words) or "no such pair", joined([same(p, margin) for p in own]))
    told_times, verdicts = [], list[Verdict]()
    for data in sets:
        m = dominant(data)
        found = None if m is None else stretch(times(data, HARD, m), times(data, control, m))
        if found is not None:
            told_times.append(f"{data.name}: {found}")
            verdicts.append(_alike(found))
    predicted = "and stretch the dominant time alike, within 3 % (the probes are read every few steps)"
    return [first, Held("2", predicted, "; ".join(told_times) or "no times", joined(verdicts))]


def _alike(found: Stretch) -> Verdict:
    low, high = 1 - SAME_TIME, 1 + SAME_TIME
    if found.low is None or found.high is None:
        return "undecided"
    if found.low > high or found.high < low:
        return "refuted"
    return "held" if low <= found.low and found.high <= high else "undecided"


def staleness_is_its_factor(sets: Sequence[Evidence], pairs: Sequence[Pair], margin: float) -> list[Held]:
    """3: a delay does what its factor does at small loads, loses at large ones, and never gains a point.

    Without a factor `scale_only` is the run without a delay. Both limits are said of a delay as such, so that they are
    held against every row that has one, whatever its compensation.
    """
    own = [p for p in pairs if p.row in EVERY_DELAY and p.other == f"{p.row}/scale_only"]
    by_name = {data.name: data for data in sets}
    small, large = (list[tuple[str, Verdict]](), list[tuple[str, Verdict]]())
    gains: list[Verdict] = []
    highest = max(own, key=lambda p: p.mean, default=None)
    for p in own:
        at = load(by_name[p.data].runs(p.row))
        words = f"{p.where}, load {'not measured' if at is None else f'{at:.2g}'}: {told(p.found, margin)}"
        if at is not None and at < SMALL and p.row in DELAYS:
            small.append((words, same(p, margin)))
        if at is not None and at > LARGE:
            large.append((words, _below(p)))
        gains.append(_no_gain(p, margin))
    best = "no such pair" if highest is None else f"highest, {highest.where}: {told(highest.found, margin)}"
    none = "no delay had such a load"
    return [
        _listed(f"a delay with c is equivalent to c alone (`scale_only`) at loads below {SMALL:g}", small, none),
        _listed(f"and a delay, with c or without, is below it at loads above {LARGE:g}", large, none),
        Held("3", f"and never gains more than {points(margin).lstrip('±')} over it", best, joined(gains)),
    ]


def _listed(predicted: str, found: Sequence[tuple[str, Verdict]], otherwise: str) -> Held:
    return Held("3", predicted, "; ".join(w for w, _ in found) or otherwise, joined([v for _, v in found]))


def _below(pair: Pair) -> Verdict:
    adjusted = pair.found.adjusted
    if adjusted is None or adjusted >= ALPHA:
        return "undecided"
    return "held" if pair.mean < 0 else "refuted"


def _no_gain(pair: Pair, margin: float) -> Verdict:
    """Return whether a gain is at most the margin: shown where the upper end of the 90 % interval is."""
    test, found = pair.found.test, pair.found.equivalence
    if test is None or test.p is None:
        return "undecided"
    assert test.difference.low is not None
    if test.difference.low * PERCENT > margin:
        return "refuted"
    return "held" if found is not None and found.high is not None and found.high * PERCENT < margin else "undecided"


def little_left(sets: Sequence[Evidence], pairs: Sequence[Pair], margin: float) -> list[Held]:
    """4: `uniform` gains more over `joint` than any rhythm over `uniform`; in the end no rhythm differs from it."""
    names, tests = list[str](), list[PairedTest]()
    for data in sets:
        joint, uniform = (per_seed(data.rows[name], TEST) for name in (JOINT, UNIFORM))
        for row in data.holding():
            mine = per_seed(row, TEST)
            common = sorted(set(mine) & set(joint) & set(uniform))
            if len(common) >= FEWEST:
                gains = ([uniform[s] - joint[s] for s in common], [mine[s] - uniform[s] for s in common])
                names.append(f"`{row.label}` on {data.name}")
                tests.append(paired_t(*gains))
    predicted = "`uniform` gains more over `joint` than any rhythm gains over `uniform`"
    differs = [same(p, margin) for p in pairs]
    held = [p.where for p, v in zip(pairs, differs, strict=True) if v == "held"]
    words = f"shown for {len(held)} of {len(pairs)} rows"
    beyond = [f"{p.where}: {told(p.found, margin)}" for p, v in zip(pairs, differs, strict=True) if v == "refuted"]
    words += f"; beyond it {'; '.join(beyond)}" if beyond else ""
    return [
        _larger(predicted, names, tests),
        Held(
            "4",
            f"at convergence no rhythm differs from `uniform` by more than {margin:g} point",
            words,
            joined(differs),
        ),
    ]


def _larger(predicted: str, names: Sequence[str], tests: Sequence[PairedTest]) -> Held:
    """Say whether all differences of two gains are above 0: held where each is by itself, refuted by one after Holm."""
    if not tests:
        return Held("4", predicted, "nothing to compare has finished", "not tested")
    adjusted = holm([t.p for t in tests])
    above = [t.p is not None and t.p < ALPHA and t.difference.mean > 0 for t in tests]
    below = [p is not None and p < ALPHA and t.difference.mean < 0 for t, p in zip(tests, adjusted, strict=True)]
    least = min(range(len(tests)), key=lambda i: tests[i].difference.mean)
    shown = difference(tests[least].difference, PERCENT).text
    found = f"larger in {sum(above)} of {len(tests)} comparisons, smaller in {sum(below)} (Holm); the least margin is "
    verdict: Verdict = "refuted" if any(below) else "held" if all(above) else "undecided"
    return Held("4", predicted, f"{found}{shown} points, {names[least]}", verdict)


UNTESTED = (
    ("1", "numbers for k 4, k 2 and soft k 2 over plain training", "rows have learning rates of their own"),
    (
        "2",
        "under momentum 0.9 freezing holds back more than the rate",
        "no row runs with momentum beside itself without",
    ),
    ("4", "the gain of a rhythm is larger at gamma 0 than at gamma 1", "every rhythm has gamma 0.25 to 4"),
    ("5", "gains grow with redundancy and fall beyond the best k", "no data set varies the redundancy alone"),
    ("6", "at gamma 4 a rhythm matters less than at gamma 1", "gamma is a knob of every rhythm, fixed in none"),
    ("7", "under Adam there is no unimodal phase", "no row runs under Adam beside itself under SGD"),
    ("8", "OGM-GE stretches the dominant time by 1.7 or more", "it has a learning rate of its own, and no control"),
)


def predictions(
    sets: Sequence[Evidence], over_uniform: Sequence[Pair], over_controls: Sequence[Pair], margin: float
) -> list[Held]:
    """Hold every prediction against the study.

    Args:
        sets: the data sets that can be compared.
        over_uniform: the comparisons of the first question.
        over_controls: those of the second.
        margin: the margin of equivalence, in percentage points.
    """
    tested = [
        delay_alone(sets),
        *frequency_is_its_rate(sets, over_controls, margin),
        *staleness_is_its_factor(sets, over_controls, margin),
        *little_left(sets, over_uniform, margin),
    ]
    untested = [Held(number, predicted, why, "not tested") for number, predicted, why in UNTESTED]
    return sorted([*tested, *untested], key=lambda held: held.number)


def predictions_table(held: Sequence[Held]) -> Table:
    """Show one row per prediction."""
    rows = [texts(h.number, h.predicted, h.found, h.verdict) for h in held]
    return Table("", columns("no.", "predicted", "found", "verdict"), rows, [])
