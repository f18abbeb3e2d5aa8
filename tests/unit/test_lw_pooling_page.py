"""The page of the study of poolings: rows on equal terms, a verdict of finished ones, what is missing is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_lw_page import LABELS, right, run

from latentwire import sequence_compression as poolings
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
