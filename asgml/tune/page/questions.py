"""The three questions of the study, each with one family of paired comparisons over all of its data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asgml.report.naming import metric
from asgml.report.tuned import TunedRow
from asgml.tune.page.axes import Courses, spread
from asgml.tune.page.evidence import JOINT, UNIFORM, Evidence
from asgml.tune.page.wording import Verdict, answer, confirms, counted, finds, points, told, verdict
from suite.report.data import RunRecord
from suite.report.frames import Configuration, Value
from suite.report.summary import Comparison, compare, per_seed
from suite.report.tables import ABSENT, PERCENT, Table, columns, number, texts

HARD = "frequency_hard"
# controls under which every encoder is updated in every step, with the gradient of that step
SYNCHRONOUS = frozenset({"lr_matched", "scale_only", "yoked_scale", "yoked_lr"})
SHARE = 0.75  # of joint training's compute
TEST = metric("test_best")


@dataclass(frozen=True)
class Pair:
    """One comparison of a family.

    Attributes:
        data: the data set.
        row: the row.
        other: the row that it is compared with.
        found: what the comparison found.
        tuned: the rows of the data set as they were tuned.
    """

    data: str
    row: str
    other: str
    found: Comparison
    tuned: Mapping[str, TunedRow]

    @property
    def where(self) -> str:
        """The comparison by name."""
        return f"`{self.row}` on {self.data}"

    @property
    def mean(self) -> float:
        """The difference, 0 where there is none."""
        return self.found.test.difference.mean if self.found.test else 0.0


@dataclass(frozen=True)
class Answer:
    """One question answered: a paragraph, and the table that it rests on."""

    question: str
    paragraph: str
    table: Table | None


Family = Sequence[tuple[Evidence, Configuration, Configuration]]


def tested(family: Family, value: Value, margin: float) -> list[Pair]:
    """Compare the pairs of a family, with Holm's correction over all of them."""
    found = compare([(row, other) for _, row, other in family], value, margin / PERCENT)
    return [
        Pair(data.name, row.label, other.label, c, data.tuned)
        for (data, row, other), c in zip(family, found, strict=True)
    ]


def holding_back(sets: Sequence[Evidence], margin: float) -> tuple[Answer, list[Pair]]:
    """Answer whether holding an encoder back helps beyond `uniform`, which only adds the unimodal losses."""
    family = [(data, row, data.rows[UNIFORM]) for data in sets for row in data.holding()]
    pairs = tested(family, TEST, margin)
    verdicts = [verdict(p.found, margin) for p in pairs]
    parts = [f"**{answer(verdicts, margin)}.**"]
    if pairs:
        parts.append(f"Rows minus `{UNIFORM}`, test accuracy: {counted(verdicts, margin)}.")
        parts += _extremes(pairs, margin)
    parts += [
        f"`{label}` on {data.name} held nobody back at any step: its schedule never saw a reason to, and nothing is "
        "learned from it."
        for data in sets
        for label in data.idle()
    ]
    parts += [
        f"`{label}` on {data.name} has no part in the questions: seed {', '.join(map(str, ended))} ended without a "
        "result."
        for data in sets
        for label, ended in data.lost.items()
    ]
    parts += _reach(pairs)
    question = "Does holding back help beyond `uniform`?"
    return Answer(question, " ".join(parts), family_table(pairs, margin)), pairs


def asynchrony(sets: Sequence[Evidence], margin: float, over_uniform: Sequence[Pair] = ()) -> tuple[Answer, list[Pair]]:
    """Answer whether a row gains over its matched and yoked controls, which lack its asynchrony alone.

    A row is beyond its controls where it is above every one of them; where a synchronous one does as well, or better,
    it is not. The others skip or delay as much as the row, at other steps or in other encoders: to be their equal says
    nothing of a run without asynchrony, and rows that have no other control are left out, as are schedules that held
    nobody back.

    Args:
        sets: the data sets.
        margin: the margin of equivalence, in percentage points.
        over_uniform: the comparisons of the first question, which stand beside a gain on every control.
    """
    every = [(data, row, c) for data in sets for row, c in data.controls() if row.label not in data.idle()]
    judged = {(data.name, row.label) for data, row, control in every if _synchronous(control.label)}
    family = [(data, row, control) for data, row, control in every if (data.name, row.label) in judged]
    left_out = len({(data.name, row.label) for data, row, _ in every} - judged)
    pairs = tested(family, TEST, margin)
    verdicts = [verdict(p.found, margin) for p in pairs]
    by_row: dict[tuple[str, str], list[tuple[str, Verdict]]] = {}
    for pair, v in zip(pairs, verdicts, strict=True):
        by_row.setdefault((pair.data, pair.row), []).append((pair.other, v))
    above = [key for key, own in by_row.items() if all(v.kind == "helps" for _, v in own)]
    beyond = [f"`{row}` on {data}" for data, row in above]
    no_more = [
        key
        for key, own in by_row.items()
        if any(v.kind in ("equivalent", "harms") for other, v in own if _synchronous(other))
    ]
    open_ = len(by_row) - len(beyond) - len(no_more)
    if not pairs:
        parts = [f"**{answer(verdicts, margin)}.**"]
    else:
        total = f"{len(by_row)} rows" if len(by_row) > 1 else "one row"
        if beyond:
            head = f"In {len(beyond)} of {total}: {', '.join(beyond)} gained on every control"
        else:
            head = f"{'Not shown' if open_ else 'No'}: no row is above every one of its controls"
        parts = [
            f"**{head}.**",
            f"Of {total}, {len(no_more)} {'do' if len(no_more) != 1 else 'does'} no more than some synchronous control "
            f"(equivalent within {points(margin)} or below it), and {open_} {'are' if open_ != 1 else 'is'} undecided.",
            f"Pair by pair: {counted(verdicts, margin)}.",
            *_extremes(pairs, margin),
            "Controls stand at the point that was tuned for their row, and are not tuned themselves.",
            *(
                f"Against `{UNIFORM}`, which is tuned: {p.where} {told(p.found, margin)}."
                for p in over_uniform
                if (p.data, p.row) in above
            ),
            *(f"On {data.name} {names} are one and the same run." for data in sets for names in _twins(data)),
        ]
    if left_out:
        have = "row has" if left_out == 1 else "rows have"
        parts.append(f"{left_out} {have} no synchronous control, and no part in this.")
    parts += _reach(pairs)
    question = "Does asynchrony help beyond its matched and yoked controls?"
    return Answer(question, " ".join(parts), family_table(pairs, margin)), pairs


def _twins(data: Evidence) -> list[str]:
    """Return the controls that have the same accuracy with every seed as one another, in words, group by group."""
    groups: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for _, control in data.controls():
        groups.setdefault(tuple(sorted(per_seed(control, TEST).items())), []).append(f"`{control.label}`")
    return [", ".join(names) for values, names in groups.items() if len(names) > 1 and len(values) > 1]


def _synchronous(control: str) -> bool:
    return control.rpartition("/")[2] in SYNCHRONOUS


def skipping(courses: Sequence[Courses], margin: float) -> tuple[Answer, list[Pair]]:
    """Answer whether `hard` skipping has joint training's accuracy at three quarters of its compute.

    Compared are, per seed, the best validation accuracy of the evaluations within that budget and joint training's at
    its best epoch: tests are made at the end of a run only. `uniform`, which skips nothing, has the same budget.
    """
    counted_here = [c for c in courses if c.encoders and HARD in c.evidence.rows]
    value = _within_budget(counted_here)
    family = []
    for c in counted_here:
        rows = c.evidence.rows
        family += [(c.evidence, rows[HARD], rows[JOINT]), (c.evidence, rows[HARD], rows[UNIFORM])]
    pairs = tested(family, value, margin)
    against = [p for p in pairs if p.other == JOINT]
    parts = [f"**{_reaches(against, margin)}.**"]
    parts += [
        f"On {p.data}, `{HARD}` within {SHARE:g} of the compute minus joint: {told(p.found, margin)}." for p in against
    ]
    for c in counted_here:
        shares = [v for v in c.reached(HARD, "compute").values() if v is not None]
        n, early = len(c.reached(HARD, "compute")), sum(v <= SHARE for v in shares)
        own = [v for v in c.reached(JOINT, "compute").values() if v is not None]
        plain = [v for v in c.reached(UNIFORM, "compute").values() if v is not None]
        whole = c.whole(HARD, "compute")
        parts.append(
            f"On {c.evidence.name} it first has joint's best validation accuracy within {SHARE:g} with {early} of {n} "
            f"seeds, at {spread(shares)} of joint's compute (median and range; joint itself {spread(own)}, `{UNIFORM}` "
            f"{spread(plain)}); a whole run of it costs {ABSENT if whole is None else f'{whole:.2f}'} of joint's."
        )
    without = [f"{c.evidence.name}: {c.unknown}" for c in courses if not c.encoders]
    parts += [f"Compute is not counted on {'; '.join(without)}."] if without else []
    beside = [p for p in pairs if p.other == UNIFORM]
    if beside:
        clauses = "; ".join(f"{p.data} {told(p.found, margin)}" for p in beside)
        parts.append(f"Against `{UNIFORM}` within the same budget, which tells skipping from the losses: {clauses}.")
    parts += _reach(pairs)
    question = f"Does `hard` skipping reach joint accuracy at {SHARE:g} of the compute?"
    return Answer(question, " ".join(parts), family_table(pairs, margin)), pairs


def _within_budget(courses: Sequence[Courses]) -> Value:
    by_folder = {c.evidence.frames.experiment: c for c in courses if c.evidence.frames}

    def value(run: RunRecord) -> float | None:
        here = by_folder[run.experiment]
        label = str(run.label)
        if label == JOINT:
            return here.targets.get(run.seed)
        if run.seed not in here.of.get(JOINT, {}) or run.seed not in here.of[label]:
            return None
        return here.of[label][run.seed].best_within(SHARE * here.total("compute", run.seed), "compute")

    return value


def _reaches(pairs: Sequence[Pair], margin: float) -> str:
    """Return whether joint's accuracy is reached: by more than nothing, within the margin, or not shown."""
    if not pairs:
        return "Not answered: nothing to compare has finished"
    there, short, left = list[str](), list[str](), list[str]()
    for p in pairs:
        v = verdict(p.found, margin)
        as_good = v.kind == "helps" or v.kind == "equivalent" or p.found.equivalent
        (there if as_good else short if v.kind == "harms" else left).append(p.data)
    words = [f"Yes on {', '.join(there)}"] if there else []
    words += [f"no on {', '.join(short)}"] if short else []
    words += [f"undecided on {', '.join(left)}"] if left else []
    text = "; ".join(words)
    return text[0].upper() + text[1:]


def _extremes(pairs: Sequence[Pair], margin: float) -> list[str]:
    """Return the largest gain and the largest loss, with all of their numbers."""
    known = [p for p in pairs if p.found.test is not None]
    if not known:
        return []
    top, low = max(known, key=lambda p: p.mean), min(known, key=lambda p: p.mean)
    parts = [f"Highest: {top.where}, against `{top.other}`, {told(top.found, margin)}."]
    if low is not top:
        parts.append(f"Lowest: {low.where}, against `{low.other}`, {told(low.found, margin)}.")
    return parts


def _reach(pairs: Sequence[Pair]) -> list[str]:
    """Return the numbers of seeds and trials, and what these could show at all."""
    tests = [p.found.test for p in pairs if p.found.test is not None]
    if not tests:
        return []
    ns, budgets = sorted({t.n for t in tests}), sorted({b for p in pairs if (b := _trials(p))})
    told_n = str(ns[0]) if len(ns) == 1 else f"{ns[0]} to {ns[-1]}"
    told_b = str(budgets[0]) if len(budgets) == 1 else f"{min(budgets, default=0)} to {max(budgets, default=0)}"
    text = f"{told_n} seeds in pairs, {told_b} trial{'s' * (told_b != '1')} per tuned row"
    least = [(d, m) for t in tests if (d := finds(t)) is not None and (m := confirms(t)) is not None]
    if least:
        found, confirmed = (float(np.median(column)) for column in zip(*least, strict=True))
        text += (
            f"; at their median spread these find a difference of {found:.1f} points with 80 % power before Holm, and "
            f"confirm equal means within ±{confirmed:.1f} points"
        )
    return [f"{text}."]


def _trials(pair: Pair) -> int:
    return pair.tuned[pair.row].trials


def family_table(pairs: Sequence[Pair], margin: float) -> Table | None:
    """Show every comparison of a family; None without any."""
    if not pairs:
        return None
    head = columns("data set", "row", "against", numbers=["seeds", "trials"])
    titles = ["Δ [95 %]", "p", "p Holm", f"p within\n{points(margin)}", "finds\nfrom", "confirms\nwithin ±"]
    head += [*columns(numbers=titles), *columns("verdict")]
    rows = []
    for p in pairs:
        test = p.found.test
        n = "0" if test is None else str(test.n)
        cells = [*p.found.cells(), p.found.equivalence_cell(), number(finds(test)), number(confirms(test))]
        rows.append([*texts(p.data, p.row, p.other, n, _trials(p)), *cells, *texts(verdict(p.found, margin).words)])
    return Table("", head, rows, [])
