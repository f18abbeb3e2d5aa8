"""The page of the catalogue: every pair of encoder and injector has its line, run or not, and equal terms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_lw_page import LABELS, right, run

from latentwire import catalogue
from latentwire.page import catalogue as pages
from latentwire.page.scores import configurations
from suite.report import read_runs

BEST = catalogue.name("lm_hidden", "deep_prefix", 4)
NEAR = catalogue.name("lm_lora", "deep_prefix", 4)
FAR = catalogue.name("byte", "soft_prefix", 4)
BEGUN = catalogue.name("token", "deep_prefix", 8)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for label in (BEST, NEAR, FAR, BEGUN):
        monkeypatch.setattr("test_lw_page.LABELS", [*LABELS, BEST, NEAR, FAR, BEGUN])
        for seed in range(1 if label == BEGUN else 3):
            run(tmp_path, label, seed, right(wire={BEST: 38, NEAR: 37, FAR: 3, BEGUN: 40}[label]))
    for path in tmp_path.glob("*/*/result.json"):
        result = json.loads(path.read_text()) | {"parameters": {"encoder": 1000, "adapter:tiny": 234}}
        result["methods"]["wire"] |= {
            "encode_ms": 1.5,
            "inject_ms": 0.25,
            "swap_gap": 2 * result["methods"]["wire"]["f1"] - 0.1,
        }
        path.write_text(json.dumps(result))
    found = configurations(read_runs([tmp_path]), [catalogue.name(*key) for key in catalogue.KEYS])
    return pages.page(found, 3)


def line(page: str, injector: str, encoder: str, ratio: int) -> list[str]:
    """Return the cells of a row of the table of a ratio."""
    part = page.split(f"## At {ratio}x")[1].split("## At")[0]
    (found,) = (
        cells
        for text in part.splitlines()
        if (cells := [c.strip() for c in text.strip("|").split("|")])[:2] == [injector, encoder]
    )
    return found[2:]


def test_every_pair_has_a_line_at_every_ratio_run_or_not(written: str) -> None:
    for encoder, injector, ratio in catalogue.KEYS:
        assert line(written, injector, encoder, ratio)
    assert line(written, "coprocessor", "pca", 8)[-1] == "not run"
    assert line(written, "deep_prefix", "token", 8)[-1] == "1 of 3, not finished"
    assert "3 of 50 rows have all 3 seeds" in written


def test_a_line_has_every_cost(written: str) -> None:
    f1, nll, gap, positions, size, encode, inject, trained, seen, done = line(written, "deep_prefix", "lm_hidden", 4)
    assert f1.startswith("95.0")
    assert nll.startswith("0.100")
    assert gap.startswith("1.800")
    assert (positions, size, encode, inject, trained, seen) == ("26", "3341", "1.50", "0.25", "1,234", "1600")
    assert done == "3"


def test_the_verdict_names_the_best_of_finished_rows_and_who_is_not_told_apart(written: str) -> None:
    verdict = next(text for text in written.splitlines() if text.startswith("**Verdict.**"))
    assert "At 4x `lm_hidden deep_prefix` answers best, F1 95.0 %" in verdict
    assert "`lm_lora deep_prefix`" in verdict
    assert "per token; F1 is that of guesses): `byte soft_prefix 4x`." in verdict
    assert verdict.count("byte") == 1
    assert "At 8x no row has all its seeds yet" in verdict


def test_rows_differ_in_encoder_injector_ratio_and_what_these_ask_for_alone() -> None:
    allowed = {"label", "encoder", "injector", "wire.ratio", "curriculum", "encoder.chunk"}
    shared = {tuple(o for o in row if o.partition("=")[0] not in allowed) for row in catalogue.ROWS}
    assert len(shared) == 1
    assert len(set(catalogue.ROWS)) == len(catalogue.KEYS) == 50


def test_without_a_run_the_page_says_so() -> None:
    assert "No run of the study has been evaluated yet." in pages.page([], 3)
