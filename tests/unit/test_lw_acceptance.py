"""Verdicts: what asks for more means more, a dead wire passes nothing, and several readers are judged one by one."""

from __future__ import annotations

from typing import Any

import pytest

from latentwire.acceptance import Rule, judge
from latentwire.report.wires import bounds_of

BUDGET = Rule("methods.wire.f1_low", minus="methods.token_budget.f1_high", min=0.0)
NLL = Rule("methods.wire.nll_high", minus="methods.no_context.nll_low", max=0.0)


def row(f1: float, kind: str = "baseline", model: str = "tiny", nll: float = 1.0) -> dict[str, Any]:
    ends = {"f1_low": max(0.0, f1 - 0.1), "f1_high": min(1.0, f1 + 0.1) if f1 else 0.0}
    return {"kind": kind, "model": model, "f1": f1, "nll": nll, "nll_low": nll, "nll_high": nll, "bytes": 39.0, **ends}


def result(wire: float, text: float = 0.9, budget: float = 0.0, kind: str = "city") -> dict[str, Any]:
    methods = {"wire": row(wire, "wire"), "text": row(text), "token_budget": row(budget), "no_context": row(0.0)}
    return {"M": 4, "methods": methods, "kinds": {name: {kind: {"n": 3}} for name in methods}}


def passed(rules: dict[str, Rule], found: dict[str, Any]) -> dict[str, bool]:
    return {v["rule"]: v["passed"] for v in judge({"evaluation": rules}, {}, found)}


def test_above_means_strictly_above() -> None:
    assert passed({"above": BUDGET, "below": NLL}, result(0.0)) == {"above": False, "below": False}
    level = result(0.5, budget=0.3)
    level["methods"]["token_budget"]["f1_high"] = level["methods"]["wire"]["f1_low"]
    assert passed({"above": BUDGET}, level) == {"above": False}
    level["methods"]["token_budget"]["f1_high"] -= 1e-9
    assert passed({"above": BUDGET}, level) == {"above": True}
    told = [bounds_of(v) for v in judge({"evaluation": {"a": BUDGET, "b": Rule("M", min=4.0)}}, {}, level)]
    assert told == ["> 0", "≥ 4"]


def test_a_bound_that_is_no_difference_may_be_met_exactly() -> None:
    assert passed({"few": Rule("M", max=4.0), "share": Rule("methods.wire.f1", over="methods.text.f1", min=1.0)},
                  result(0.9)) == {"few": True, "share": True}  # fmt: skip


def test_a_ratio_over_zero_fails() -> None:
    for wire in (0.0, 0.5):
        share = Rule("methods.wire.f1", over="methods.text.f1", min=0.0)
        capped = Rule("methods.wire.f1", over="methods.text.f1", max=9.0)
        assert passed({"low": share, "high": capped}, result(wire, text=0.0)) == {"low": False, "high": False}


def test_a_dead_wire_passes_nothing_whatever_is_asked() -> None:
    rules = {"small": Rule("methods.wire.bytes", max=40.0), "slots": Rule("M", max=4.0),
             "near": Rule("methods.wire.nll", max=9.0), "reader": Rule("methods.text.f1", min=0.1)}  # fmt: skip
    assert passed(rules, result(0.1)) == dict.fromkeys(rules, True)
    assert passed(rules, result(0.0)) == dict.fromkeys(rules, False)
    assert all("wire is dead: F1 0" in v["remark"] for v in judge({"evaluation": rules}, {}, result(0.0)))
    assert passed(rules, result(0.0, text=0.0)) == {**dict.fromkeys(rules, True), "reader": False}, "nobody answers"
    assert passed(rules, result(0.0, kind="continuation")) == dict.fromkeys(rules, True), "no right answer, no F1"


def test_with_several_readers_every_one_is_judged() -> None:
    methods = {f"{name}/{model}": row(f1, "wire" if name == "wire" else "baseline", model)
               for model, wire in (("a", 0.8), ("b", 0.0)) for name, f1 in (("wire", wire), ("text", 0.9),
                                                                          ("token_budget", 0.0))}  # fmt: skip
    methods["wire/joint"] = row(0.8, "joint", "a+b")
    rules = {
        "above": BUDGET,
        "named": Rule("methods.wire/a.f1", min=0.5),
        "joint": Rule("methods.wire/joint.f1", min=0.5),
    }
    found = {"methods": methods, "kinds": {}}
    assert passed(rules, found) == {"above/a": True, "above/b": False, "named": True, "joint": False}
    methods["wire/b"] = row(0.7, "wire", "b")
    assert passed(rules, found) == {"above/a": True, "above/b": True, "named": True, "joint": True}


@pytest.mark.parametrize("rule", [Rule("methods.nobody.f1", min=0.0), Rule("methods.wire.nothing", max=1.0)])
def test_what_is_not_there_fails(rule: Rule) -> None:
    assert passed({"rule": rule}, result(0.5)) == {"rule": False}
