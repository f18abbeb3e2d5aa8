"""Pages of short studies of wires: rows on equal terms, planted facts against ordinary ones, what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_lw_page import LABELS, right, run

from latentwire import lost
from latentwire import sequence_compression as poolings
from latentwire.page import lost as lost_page
from latentwire.page import pooling as pooling_page
from latentwire.page.scores import configurations
from suite.report import read_runs


def test_rows_differ_in_what_the_studies_are_about_alone() -> None:
    same = {
        tuple(o for o in row if not o.startswith(("label=", "pooling@", "objective")))
        for row in poolings.ROWS
    }  # fmt: skip
    assert len(same) == 1
    assert len(poolings.FITTING) == 6
    for corpus in lost.CORPORA:
        rows = [lost.row(corpus, wire) for wire in lost.WIRES]
        ours = ("label=", "encoder=", "injector=")
        assert len({tuple(o for o in row if not o.startswith(ours)) for row in rows}) == 1


@pytest.fixture
def pooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    keys = [*poolings.FITTING.items()][:4]
    names = [poolings.name(*key) for key in keys] + [poolings.name("chunk_mean", poolings.ALONE)]
    monkeypatch.setattr("test_lw_page.LABELS", [*LABELS, *names])
    for label, got in zip(names, (30, 29, 1, 31, 20), strict=True):
        for seed in range(1 if got == 31 else 3):
            run(tmp_path, label, seed, right(wire=got))
    found = configurations(read_runs([tmp_path]), [poolings.name(*key) for key in poolings.KEYS])
    return pooling_page.page(found, 3)


def test_the_verdict_is_of_finished_poolings_and_names_those_below_the_tokens(pooled: str) -> None:
    verdict = next(text for text in pooled.splitlines() if text.startswith("**Verdict.**"))
    assert "`chunk_mean` keeps most answers, F1 75.0 %" in verdict
    assert "behind it: `hierarchical` (2.5 %)" in verdict
    assert "less than as many tokens of the text: `hierarchical`" in verdict
    assert "transport" not in verdict
    assert "`chunk_mean` with what fits it gains +25.0" in verdict


def test_rows_that_are_not_finished_say_so(pooled: str) -> None:
    assert "| pool_expand | text_reconstruction | — | — | — | — | — | — | not run |" in pooled
    assert "1 of 3, not finished" in pooled
    assert "**Not finished**: transport embedding_reconstruction" in pooled
    assert "No run of the study has been evaluated yet." in pooling_page.page([], 3)


def rows(early: float, late: float, kinds: tuple[str, str]) -> list[dict[str, object]]:
    return [
        {"group": f"p{i // 2}", "kind": kinds[i % 2], "f1": (early, late)[i % 2], "question": f"q{i}"}
        for i in range(8)
    ]  # fmt: skip


def test_planted_facts_stand_against_ordinary_ones_of_the_same_texts() -> None:
    two = rows(1.0, 0.25, ("inside", "boundary"))
    two.append({"group": "alone", "kind": "inside", "f1": 0.0, "question": "q9"})  # nothing planted: it does not count
    a, b, d = lost_page.split({0: two, 1: two}, "lost_boundary")
    assert (a.estimate, b.estimate, d.estimate) == (0.25, 1.0, -0.75)
    assert d.high < 0


def test_the_later_half_of_a_list_is_what_was_planted() -> None:
    told = lost_page.planted("lost_along", ["item 01", "item 02", "item 03", "item 04"])
    assert [told(f"item 0{n}") for n in (1, 2, 3, 4)] == [False, False, True, True]


def test_a_wire_that_reads_nothing_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails, dead = (lost.name("lost_boundary", wire) for wire in lost.WIRES[:2])
    monkeypatch.setattr("test_lw_page.LABELS", [*LABELS, fails, dead])
    for label in (fails, dead):
        for seed in range(3):
            run(tmp_path, label, seed, right(wire=40))
    for path in tmp_path.glob("*/*/predictions.jsonl"):
        label = json.loads((path.parent / "result.json").read_text())["label"]
        found = []
        for n, line in enumerate(path.read_text().splitlines()):
            row = json.loads(line)
            row["kind"] = ("inside", "boundary")[n % 2]
            if row["method"] == "wire":
                row["f1"] = 0.0 if label == dead else float(row["kind"] == "inside")
            found.append(json.dumps(row))
        path.write_text("\n".join(found) + "\n")
    known = configurations(read_runs([tmp_path]), [lost.name(*key) for key in lost.KEYS])
    page = lost_page.page(known, 3)
    assert "lost_boundary: lost by `lm_hidden deep_prefix` (−100.0 [−100.0, −100.0])" in page
    assert "nothing is decided where ordinary facts are not read, `token deep_prefix` (0.0 [0.0, 0.0])" in page
    assert "lost_along: no wire has all its seeds yet." in page
    assert "| lost_boundary | the text itself | 100.0" in page
    assert "| lost_surprise | lm_hidden deep_prefix | — | — | — | not run |" in page
    assert "No run of the study has been evaluated yet." in lost_page.page([], 3)
