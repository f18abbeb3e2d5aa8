"""A whole run with every rival: what its table counts, that nothing is fitted twice, and when its wire pays in time."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from lw_runs import config, run_of
from omegaconf import open_dict

from callbacks.errors import UserError
from latentwire.baselines.learned import LearnedBaseline
from latentwire.breakeven import main, reads_until
from latentwire.rivals import RIVALS
from latentwire.run import train
from latentwire.study import STUDIES
from suite.runs.job import Run, seed_everything
from suite.runs.ledger import write_json

ROWS = (
    "text,no_context,token_budget,static_prefix,gist,icae,pca,kv_compaction,text_lm_coded,lm_byte_budget,id_byte_budget"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Run, dict[str, Any], Any]:
    folder = tmp_path_factory.mktemp("rivals")
    few = [
        "baselines.gist.share=0.5",
        "baselines.icae.rank=2",
        "baselines.text_lm_coded.verify=1",
        "codec.size=16",
        "codec.stages=2",
        "acceptance={}",
    ]
    cfg = config(folder, f"baseline=[{ROWS}]", "codec=rvq", *few, "trainer.max_epochs=1")
    made = run_of(cfg)
    seed_everything(0)
    result = train(cfg, made)
    write_json(made.dir / "result.json", {**result, "status": "finished", "hash": made.hash})
    return made, result, cfg


def test_the_table_counts_questions_positions_and_bytes(run) -> None:
    made, result, _ = run
    m = result["methods"]
    seen = {name: row["questions_seen"] for name, row in m.items() if "questions_seen" in row}
    assert seen == {"wire": 36, "static_prefix": 36, "icae": 36, "gist": 18, "pca": 0}
    assert result["training"]["all"] == {"steps": 6, "contexts": 3, "questions": 2, "asked": 36}
    for name in ("wire", "static_prefix", "gist", "icae", "kv_compaction", "token_budget"):
        assert m[name]["positions"] == 3, name
    assert m["no_context"]["positions"] == 0
    assert m["wire"]["bytes"] == pytest.approx(m["wire"]["payload"] + 13)
    assert m["wire"]["payload"] <= 3, "three slots of two codes of four bits, entropy-coded where that is shorter"
    assert m["lm_byte_budget"]["bytes"] <= m["wire"]["bytes"] + 1
    for key in ("encode_ms", "send_ms", "inject_ms", "prefill_ms", "answer_ms"):
        assert m["wire"][key] >= 0, key
    page = (made.dir / "report.html").read_text()
    assert "gist (50 % of the wire" in page
    assert "F1 over bytes" in page
    assert "F1 over positions" in page


def test_an_evaluation_again_fits_nothing(run, monkeypatch) -> None:
    made, result, cfg = run
    from latentwire.build import build
    from latentwire.scoring.finished import score

    kept = {path: path.stat().st_mtime_ns for path in (made.dir / RIVALS).iterdir()}
    assert len(kept) == 4
    for rival in LearnedBaseline.__subclasses__():
        monkeypatch.setattr(rival, "learn", lambda *_: pytest.fail("fitted again"))
    seed_everything(1)
    fewer = copy.deepcopy(cfg)
    with open_dict(fewer):
        for name in set(fewer.baselines) - {"static_prefix", "gist", "icae", "pca"}:
            del fewer.baselines[name]
    parts = build(cfg, made)
    again = score(fewer, made.dir, parts.inputs, parts.module.wire)
    for name in ("static_prefix", "gist", "icae", "pca"):
        assert again["methods"][name]["nll"] == pytest.approx(result["methods"][name]["nll"], abs=1e-6), name
    assert {path: path.stat().st_mtime_ns for path in (made.dir / RIVALS).iterdir()} == kept


def test_the_break_even_is_measured_on_a_finished_run(run, capsys) -> None:
    made, _, _ = run
    assert "breakeven" in STUDIES
    assert main([str(made.dir), "--lengths", "40", "120", "9999", "--repeats", "1"]) == 0
    found = json.loads((made.dir / "breakeven.json").read_text())
    rows = found["rows"]
    assert [r["messages"] for r in rows] == sorted({r["messages"] for r in rows}), "longer contexts, more messages"
    assert all(r["positions"] == 3 * r["messages"] for r in rows)
    assert all(r[key] > 0 for r in rows for key in ("encode", "send", "inject", "read", "text", "cache", "cached"))
    assert max(r["tokens"] for r in rows) <= 256
    page = (made.dir / "report.html").read_text()
    assert re.search(r"<h2[^>]*>Break-even", page)
    assert "reads until less" in page
    capsys.readouterr()
    assert main([str(made.dir), "--lengths", "9999", "--repeats", "1"]) == UserError.EXIT_CODE
    assert "fit into the reader" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("once", "per_read", "other_once", "other_per_read", "reads"),
    [
        (10.0, 1.0, 0.0, 6.0, 2),
        (10.0, 1.0, 0.0, 5.9, 3),
        (10.0, 1.0, 0.0, 1.0, None),
        (10.0, 2.0, 20.0, 1.0, None),
        (10.0, 1.0, 20.0, 1.0, 1),
        (1.0, 1.0, 5.0, 2.0, 1),
        (10.0, 1.0, 0.0, 11.0, 1),
    ],
)
def test_break_even_reads(once, per_read, other_once, other_per_read, reads) -> None:
    assert reads_until(once, per_read, other_once, other_per_read) == reads
    if reads is not None:
        for r in range(1, 20):
            assert (once + r * per_read <= other_once + r * other_per_read + 1e-9) == (r >= reads)
