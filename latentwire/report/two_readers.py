"""Two readers of one message, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latentwire.report.evaluation_tables import percent
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, number, texts

_ADVERSARY = (
    "Trained: an adapter and an injector of the reader, started anew on the slots of the other and trained on answers; "
    "null: the same on slots of other passages. Leak: the trained one's swap gap less that of its null, in nats per "
    "token. An interval above 0 says that the slots can be read; any other that this training could not, more steps "
    "might."
)


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Show what `latentwire.two_readers.measure` has found."""
    more = [_leakage(found)] if found["leakage"] else []
    return [_ways(found), _agreement(found), _thresholds(found), *more]


def _share(value: float | None) -> Cell:
    return Cell(ABSENT) if value is None else number(PERCENT * value, 1)


def _ways(found: Mapping[str, Any]) -> Table:
    asked = list(found["rows"][0]["at"])
    rows = []
    for r in found["rows"]:
        temperature = found["temperatures"].get(r["name"])
        rows.append(
            [
                Cell(r["name"]),
                percent(r["em"], r["em_low"], r["em_high"]),
                _share(r["f1"]),
                *(_share(r["at"][c]) for c in asked),
                number(PERCENT * r["mean_risk"], 2),
                number(temperature, 2),
                _share(r.get("uncalibrated_error")),
                _share(r["calibration_error"]),
            ]
        )
    o = found["oracle"]
    empty = [Cell(ABSENT)] * (len(asked) + 4)
    rows.append([Cell("oracle (unfair)"), percent(o["em"], o["em_low"], o["em_high"]), _share(o["f1"]), *empty])
    n, c = found["questions"], found["candidates"]
    note = (
        f"{n['test']} questions of test, {n['validation']} of validation; {c['mean']:.1f} different candidates to a "
        f"question, one of them right in {PERCENT * c['right']:.1f} %. A reader keeps to its own answer; a pool takes "
        "the candidate of the highest pooled probability. EM at a coverage: of the most confident answers, at least "
        "that share of all. Risk: mean share of wrong answers over all thresholds (area under risk over coverage). "
        "Temperatures are fitted on validation; calibration error: ten bins, at temperature 1 and at the fitted one. "
        "The oracle knows the gold answer."
    )
    head = ["EM %\n[95 %]", "F1 %", *(f"EM % at\n{PERCENT * float(c):g} %" for c in asked), "risk %", "temper-\nature",
            "error %\nbefore", "error %\nafter"]  # fmt: skip
    return Table("Answers", columns("answers of", numbers=head), rows, [note])


def _agreement(found: Mapping[str, Any]) -> Table:
    a, names = found["agreement"], list(found["temperatures"])
    apart = a["em_apart"] or [None] * len(names)
    rows = [[Cell("all the same"), _share(a["share"]), *[_share(a["em"])] * len(names)]]
    rows.append([Cell("not the same"), _share(1 - a["share"]), *map(_share, apart)])
    head = ["questions %", *(f"EM %\n{name}" for name in names)]
    return Table("Agreement", columns("the readers' own answers are", numbers=head), rows, [])


def _thresholds(found: Mapping[str, Any]) -> Table:
    rows = [
        [
            Cell(t["name"]),
            _share(t["target"]),
            number(t["threshold"], 3)
            if t["threshold"] is not None and t["threshold"] <= 1
            else Cell("none reaches it"),
            _share(t["coverage"]),
            _share(t["em"]),
        ]
        for t in found["thresholds"]
    ]
    note = "The threshold is the lowest confidence from which on validation reaches the accuracy; the rest is of test."
    head = ["EM % asked", "threshold", "answered %", "EM % of these"]
    return Table("Abstention", columns("answers of", numbers=head), rows, [note])


def _leakage(found: Mapping[str, Any]) -> Table:
    rows = [
        [
            *texts(r["reader"], r["name"]),
            number(r["latents"], 0),
            percent(r["f1"], r["f1_low"], r["f1_high"]),
            _share(r["f1_other"]),
            number(r["swap_gap"], 3),
            number(r["explained"], 2),
            _nats(r["leak"]),
        ]
        for r in found["leakage"]
    ]
    note = (
        "Slots of another reader are given in place of the reader's own, the shared ones replaced by their mean over "
        "training texts; translated: through the affine map of least squares to the reader's own slots, fitted on "
        "training texts. Of another passage: the same with messages of other passages. What the reader gets out of "
        "them is the swap gap in nats per token. Explained: share of the variance of its own slots that the map "
        "explains on test."
    )
    notes = [note] + [f"{_ADVERSARY} {found['adversary']} steps each."] * bool(found["adversary"])
    head = ["latents", "F1 %\n[95 %]", "F1 % of\nanother passage", "swap gap", "explained", "leak\n[95 %]"]
    return Table("Private slots", columns("reader", "is given", numbers=head), rows, notes)


def _nats(interval: Sequence[float] | None) -> Cell:
    if interval is None:
        return Cell(ABSENT)
    value, low, high = (f"{x:.3f}".replace("-", "−") for x in interval)
    return Cell(f"{value} [{low}, {high}]", interval[0])
