"""The page of nested budgets: one wire at each budget, paired with the wire that was trained for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_lw_page import LABELS, QUESTIONS, right, run

from latentwire.page import budgets
from latentwire.page.scores import configurations
from suite.report import read_runs

NESTED, FOUR, EIGHT = LABELS[2], LABELS[0], LABELS[1]


def cut(folder: Path, seed: int, correct: dict[str, int], slots: int = 13) -> None:
    """Add rows at a budget to the run of the wire with nested budgets."""
    path = folder / "pocket" / f"{LABELS.index(NESTED)}{seed}"
    result = json.loads((path / "result.json").read_text())
    rows = (path / "predictions.jsonl").read_text().splitlines()
    for name, n in correct.items():
        numbers = result["methods"][name] | {"M": slots, "prefix_of": name, "f1": n / QUESTIONS}
        result["methods"][f"{name}@{slots}"] = numbers
        for i in range(QUESTIONS):
            f1 = float(i < n)
            rows.append(json.dumps({"method": f"{name}@{slots}", "model": "tiny", "question": f"q{i}",
                                    "group": f"p{i // 2}", "f1": f1, "em": f1}))  # fmt: skip
    (path / "result.json").write_text(json.dumps(result))
    (path / "predictions.jsonl").write_text("\n".join(rows) + "\n")


def alone(folder: Path, label: str, seed: int, correct: int, slots: int) -> None:
    """Write a run of a wire that was trained for one budget."""
    run(folder, label, seed, right(wire=correct))
    path = folder / "pocket" / f"{LABELS.index(label)}{seed}" / "result.json"
    result = json.loads(path.read_text())
    result["methods"]["wire"]["M"] = slots
    path.write_text(json.dumps(result))


@pytest.fixture
def written(tmp_path: Path) -> str:
    for seed in (0, 1):
        run(tmp_path, NESTED, seed, right(wire=38))
        cut(tmp_path, seed, {"wire": 30, "token_budget": 4})
        alone(tmp_path, FOUR, seed, 38, 26)
        alone(tmp_path, EIGHT, seed, 40, 13)
    return budgets.page(configurations(read_runs([tmp_path]), LABELS), [NESTED, FOUR, EIGHT], 3)


def test_each_budget_is_compared_with_the_wire_trained_for_it(written: str) -> None:
    rows = [line for line in written.splitlines() if line.startswith(("| 26", "| 13"))]
    assert [row.split("|")[1].strip() for row in rows] == ["26", "13"]
    whole, half = ([cell.strip() for cell in row.split("|")[2:]] for row in rows)
    assert whole[2] == "0.0 [0.0, 0.0]"
    assert half[2].startswith("−25.0 [")
    assert (whole[3], half[3]) == ("20.0", "10.0")  # as many tokens of the text


def test_the_verdict_says_where_one_training_is_enough_and_what_both_cost(written: str) -> None:
    assert "is behind at 13 latents (−25.0" in written
    assert "is within 2 points at 26 latents (0.0" in written
    assert "It saw 1,600 questions, the others 3,200 together." in written


def test_missing_seeds_are_said(written: str) -> None:
    assert f"{EIGHT} (2 of 3 seeds)" in written


def test_without_the_nested_wire_there_is_nothing_to_say(tmp_path: Path) -> None:
    alone(tmp_path, FOUR, 0, 38, 26)
    page = budgets.page(configurations(read_runs([tmp_path]), LABELS), [NESTED, FOUR, EIGHT], 3)
    assert "No run with nested budgets has been evaluated yet." in page
