"""Every score has an interval drawn over passages, and comparisons are paired (specification B2.16).

200 examples give ±5.5 points of F1. The old mistake was a table of means, and questions counted as if those of one
passage were independent.
"""

from __future__ import annotations

import numpy as np
import pytest

from latentwire.scoring.evaluation import paired_tests
from latentwire.scoring.metrics import summarise


def rows(scores: list[float], group_of: int, method: str = "wire") -> list[dict]:
    return [
        {"f1": s, "em": s, "nll": 1.0, "prediction": str(i), "gold": str(i), "group": f"p{i // group_of}"}
        | {"method": method, "model": "m", "question": f"q{i}"}
        for i, s in enumerate(scores)
    ]


def test_two_hundred_questions_leave_more_than_five_points_either_way() -> None:
    scores = [1.0] * 100 + [0.0] * 100
    found = summarise(rows(scores, 1), 2000, 0)
    half = (found["f1_high"] - found["f1_low"]) / 2
    assert half == pytest.approx(1.96 * 0.5 / 200**0.5, rel=0.1)
    assert half > 0.055


def test_questions_of_a_passage_count_together() -> None:
    """Ten questions per passage, all right or all wrong: the data are 20 passages, not 200 questions."""
    scores = [float(i // 10 % 2) for i in range(200)]
    alone, together = summarise(rows(scores, 1), 2000, 0), summarise(rows(scores, 10), 2000, 0)
    width = [found["f1_high"] - found["f1_low"] for found in (alone, together)]
    assert width[1] == pytest.approx(10**0.5 * width[0], rel=0.15)


def test_a_difference_is_tested_in_pairs() -> None:
    """Five points that always go one way: apart, the intervals overlap; paired, the difference is certain."""
    generator = np.random.default_rng(0)
    budget = generator.integers(0, 2, 200).astype(float)
    wire = budget.copy()
    wire[np.flatnonzero(budget == 0)[:10]] = 1.0
    a, b = rows(wire.tolist(), 2), rows(budget.tolist(), 2, "token_budget")
    apart = [summarise(part, 2000, 0) for part in (a, b)]
    assert apart[0]["f1_low"] < apart[1]["f1_high"]
    (test,) = paired_tests([*a, *b], ["wire"], 2000, 0)
    assert test["low"] > 0
    assert (test["em_only_wire"], test["em_only_other"]) == (10, 0)
    assert test["p_mcnemar"] == pytest.approx(2 * 0.5**10)


def test_questions_of_a_passage_count_together_in_a_difference() -> None:
    scores, nothing = [float(i // 10 % 2) for i in range(200)], [0.0] * 200
    width = []
    for together in (1, 10):
        (test,) = paired_tests([*rows(scores, together), *rows(nothing, together, "token_budget")], ["wire"], 2000, 0)
        width.append(test["high"] - test["low"])
    assert width[1] == pytest.approx(10**0.5 * width[0], rel=0.15)
