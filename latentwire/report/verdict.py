"""What wires have shown, in words: accepted or not, what is lost against the text, and who does as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentwire.report.evaluation_tables import ordered
from latentwire.report.stored import Score, evaluated, f1_of, methods_of, plain
from suite.report.data import RunRecord
from suite.report.frames import Configuration, RunFrames
from suite.report.statements import Kind, Statement
from suite.report.summary import Comparison
from suite.report.tables import PERCENT, signed
from suite.report.verdict import Measure, Wording, in_words, judged, listed
from suite.statistics import holm, paired_t

MOST = 6  # configurations of which a sentence each is said


def verdict(frames: RunFrames) -> list[Statement]:
    """Say whether the rules of acceptance were met, how wires stand between their ends, and against their rivals."""
    known = [c for c in frames.configurations if evaluated(c)]
    found = [*_accepted(frames), *(s for c in known[:MOST] for s in _level(c, frames.single))]
    if len(known) > MOST:
        found.append(Statement(f"{len(known) - MOST} more configurations are in the table."))
    if frames.single:
        return [*found, *(s for c in known for s in _rivals(c))]
    if frames.base is not None:
        pairs = [(c, frames.base) for c in known if c is not frames.base]
        found += judged(pairs, Measure("F1 of the first wire", _of_first_wire), Wording(against=frames.base.label))
    return found


def wires_of(run: RunRecord) -> list[str]:
    """Return the wires of a run's evaluation, without those cut to a prefix of their message."""
    methods = methods_of(run)
    return [k for k in ordered(methods) if methods[k]["kind"] == "wire" and "prefix_of" not in methods[k]]


def _of_first_wire(run: RunRecord) -> float | None:
    wires = wires_of(run)
    return methods_of(run)[wires[0]]["f1"] if wires else None


def _accepted(frames: RunFrames) -> list[Statement]:
    rules = [
        (f"{v['rule']} ({c.label}, seed {run.seed})", v["passed"])
        for c in frames.configurations
        for run in c.runs
        for v in run.result.get("acceptance") or []
    ]
    if not rules:
        return []
    failed = [told for told, passed in rules if not passed]
    if not failed:
        return [Statement(f"PASS: all {len(rules)} rules of acceptance are met.", "passed")]
    told = f"FAIL: {len(failed)} of {len(rules)} rules of acceptance are not met: {listed(failed)}."
    return [Statement(told, "failed")]


def _level(c: Configuration, single: bool) -> list[Statement]:
    """Say the F1 of every wire of a configuration, between the text and no context on the same model."""
    runs, found = evaluated(c), []
    methods = methods_of(runs[0])
    for key in wires_of(runs[0]):
        mine = f1_of(runs, key)
        if mine is None:
            continue
        ends = [
            f"{name.replace('_', ' ')} {other.mean * PERCENT:.1f}"
            for k, m in methods.items()
            if (name := plain(k, m)) in ("text", "no_context")
            if m["model"] == methods[key]["model"] and (other := f1_of(runs, k)) is not None
        ]
        who, seeds = key if single else f"{c.label}, {key}", f"{len(runs)} seed{'s' * (len(runs) > 1)}"
        beside = f"; {', '.join(ends)}" if ends else ""
        found.append(Statement(f"{who}: F1 {_score(mine)} % with {methods[key]['M']} latents{beside} ({seeds})."))
    return found


def _score(score: Score) -> str:
    ends = (
        "" if score.low is None or score.high is None else f" [{score.low * PERCENT:.1f}, {score.high * PERCENT:.1f}]"
    )
    return f"{score.mean * PERCENT:.1f}{ends}"


def _rivals(c: Configuration) -> list[Statement]:
    """Judge every wire against the other fair methods on its model: over seeds, with one seed over its questions."""
    runs, found = evaluated(c), []
    methods = methods_of(runs[0])
    for key in wires_of(runs[0]):
        model = methods[key]["model"]
        fair = [k for k in ordered(methods) if methods[k]["kind"] == "baseline" and methods[k]["fair"]]
        rivals = [k for k in fair if methods[k]["model"] == model]
        found += _over_questions(runs[0], key, rivals) if len(runs) == 1 else _over_seeds(runs, key, rivals)
    return found


def _over_seeds(runs: list[RunRecord], key: str, rivals: list[str]) -> list[Statement]:
    tests = {}
    for rival in rivals:
        known = [m for run in runs if {key, rival} <= set(m := methods_of(run))]
        tests[rival] = paired_t([m[key]["f1"] for m in known], [m[rival]["f1"] for m in known])
    adjusted = holm([test.p for test in tests.values()])
    comparisons = [(key, rival, Comparison(t, p)) for (rival, t), p in zip(tests.items(), adjusted, strict=True)]
    return in_words(comparisons, Measure("F1", _of_first_wire), Wording(subject=key))


def _over_questions(run: RunRecord, key: str, rivals: list[str]) -> list[Statement]:
    """Sort rivals by where the 95 % interval of the paired difference of F1 lies, over the questions of one seed."""
    methods = methods_of(run)
    wire, names = plain(key, methods[key]), {plain(k, methods[k]) for k in rivals}
    tests = [
        t
        for t in run.result.get("tests") or []
        if (t["wire"], t["model"]) == (wire, methods[key]["model"]) and t["against"] in names
    ]
    parts: dict[Kind, tuple[str, list[Mapping[str, Any]]]] = {
        "better": ("better than", [t for t in tests if t["low"] > 0]),
        "worse": ("worse than", [t for t in tests if t["high"] < 0]),
        "open": ("not shown to differ from", [t for t in tests if t["low"] <= 0 <= t["high"]]),
    }
    return [
        Statement(
            f"Over the questions of one seed {key} is {what} {listed([_difference(t) for t in part])}; points of F1 "
            "with 95 % intervals, not corrected for the number of rivals.",
            kind,
        )
        for kind, (what, part) in parts.items()
        if part
    ]


def _difference(test: Mapping[str, Any]) -> str:
    low, mean, high = (signed(test[key] * PERCENT, 1) for key in ("low", "f1_difference", "high"))
    return f"{test['against']} ({mean} [{low}, {high}])"
