"""Weights over time and periods of a run."""

from __future__ import annotations

import math

import pytest

from callbacks.errors import UserError
from latentwire.acceptance import Rule, judge
from latentwire.train.curriculum import (
    Constant,
    Cosine,
    Curriculum,
    Delayed,
    Gated,
    Linear,
    PeakAndDecay,
    Period,
    Schedule,
    slots_for,
)


def course(schedule: Schedule, steps: int = 12) -> list[float]:
    return [round(schedule.weight(t, {}), 6) for t in range(steps)]


def test_each_schedule_has_its_shape() -> None:
    assert course(Constant(0.5), 3) == [0.5] * 3
    assert course(Delayed(2, 3.0), 4) == [0.0, 0.0, 3.0, 3.0]
    assert course(Linear(1.0, 0.0, steps=4, start=1), 7) == [1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    cosine = course(Cosine(0.0, 1.0, steps=4), 6)
    assert cosine == [0.0, round(0.5 - 0.5 * math.cos(math.pi / 4), 6), 0.5, cosine[3], 1.0, 1.0]
    peak = course(PeakAndDecay(peak=2.0, rise=2, hold=2, decay=4, floor=0.5))
    assert peak[:5] == [0.0, 1.0, 2.0, 2.0, 2.0]
    assert peak[4:9] == sorted(peak[4:9], reverse=True)
    assert peak[8:] == [0.5] * 4


def test_a_gate_opens_and_closes_with_its_metric_and_its_schedule_counts_from_the_opening() -> None:
    gate = Gated(Linear(0.0, 1.0, steps=2), "cosine", above=0.75)
    seen = [{}, {"cosine": 0.7}, {"cosine": 0.8}, {"cosine": 0.8}, {"cosine": 0.8}, {"cosine": math.nan},
            {"cosine": 0.9}, {"cosine": 0.9}]  # fmt: skip
    assert [gate.weight(t, s) for t, s in enumerate(seen)] == [0, 0, 0, 0.5, 1.0, 0, 0, 0.5]
    latch = Gated(Constant(), "loss", below=1.0, latch=True)
    assert [latch.weight(t, {"loss": v}) for t, v in enumerate([2.0, 0.5, 2.0])] == [0, 1, 1]


def test_a_gate_remembers_over_a_restart_when_it_opened() -> None:
    first = Gated(Linear(0.0, 1.0, steps=10), "x", above=0.0)
    for t in range(5):
        first.weight(t, {"x": 1.0})
    second = Gated(Linear(0.0, 1.0, steps=10), "x", above=0.0)
    second.load_state(first.state())
    assert second.weight(5, {"x": 1.0}) == first.weight(5, {"x": 1.0}) == 0.5


def test_periods_divide_the_steps_by_their_shares() -> None:
    curriculum = Curriculum([Period("a", 1.0, ratio=4), Period("b", 1.0, ratio=8), Period("c", 2.0)], 100)
    assert [curriculum.at(t).name for t in (0, 24, 25, 49, 50, 99, 500)] == list("aabbccc")


def test_a_period_names_who_moves_by_kind_or_exactly() -> None:
    period = Period("a", trains=["adapter", "injector:llama"])
    moving = [g for g in ("encoder", "adapter:llama", "adapter:qwen", "injector:llama", "injector:qwen") if
              period.moves(g)]  # fmt: skip
    assert moving == ["adapter:llama", "adapter:qwen", "injector:llama"]
    assert Period("all").moves("encoder")


def test_what_cannot_be_meant_is_refused() -> None:
    for periods in ([], [Period("a"), Period("a")]):
        with pytest.raises(UserError):
            Curriculum(periods, 10)
    with pytest.raises(UserError, match="last stage"):
        Curriculum([Period("a", ratio=4)], 10)  # then nobody trains at the ratio that is evaluated
    with pytest.raises(UserError):
        Gated(Constant(), "x")


def test_slots_of_a_ratio() -> None:
    assert [slots_for(98.4, r) for r in (1, 4, 8, 16, 1000)] == [98, 25, 12, 6, 1]


def test_rules_compare_metrics_of_stages_and_of_the_result() -> None:
    result = {"methods": {"wire": {"f1": 0.9, "f1_low": 0.85}, "text": {"f1": 1.0}, "wire/b": {"f1": 0.5}}}
    rules = {
        "latents": {"reads": Rule("first_token_top1", min=0.9), "sane": Rule("grad_norm", max=10.0)},
        "evaluation": {
            "of_text": Rule("methods.wire.f1", over="methods.text.f1", min=0.95),
            "named": Rule("methods.wire/b.f1", min=0.5),
            "gap": Rule("methods.wire.f1_low", minus="methods.text.f1", max=0.0),
            "absent": Rule("methods.nobody.f1", min=0.0),
        },
    }
    verdicts = judge(rules, {"latents": {"first_token_top1": 0.95, "grad_norm": 11.0}}, result)
    passed = {v["rule"]: v["passed"] for v in verdicts}
    assert passed == {"reads": True, "sane": False, "of_text": False, "named": True, "gap": True, "absent": False}
    with pytest.raises(UserError):
        Rule("x")
