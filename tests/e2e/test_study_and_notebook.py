"""A small study from command to table and report, and the notebook on what it left."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from asgml_runs import overrides, write_features
from notebook_runs import NOTEBOOKS, run_here

from asgml.study import PROGRAM
from suite.runs.study import Study, run_study, start


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    npz = write_features(folder / "f.npz", kind="image")
    rows = (("method=joint",), ("method=unimodal", "methods.unimodal.modality=audio"))
    tiny = Study("features", (0, 1), rows)
    given = [o for o in overrides(npz, folder / "runs") if not o.startswith("experiment=")]
    assert run_study(PROGRAM, tiny, "tiny", given) == 0
    assert run_study(PROGRAM, tiny, "tiny", given) == 0  # nothing runs twice
    return folder / "runs"


def test_a_study_ends_with_a_table_and_a_self_contained_report(runs):
    rows = [json.loads(line) for line in (runs / "ledger.jsonl").open()]
    assert len(rows) == 4
    assert {r["status"] for r in rows} == {"finished"}
    table = (runs / "tiny" / "table.md").read_text()
    for label in ("joint", "unimodal audio"):
        assert label in table
    html = (runs / "tiny" / "report.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"https?:", html)
    single = next((runs / "tiny").glob("*/report.html")).read_text()
    assert "accuracy" in single


def test_a_quiet_line_from_python_speaks_only_where_it_fails(runs, capsys):
    line = [*overrides(runs.parent / "f.npz", runs.parent / "quiet"), "method=joint"]
    assert start(PROGRAM, line, quiet=True) == 0
    assert capsys.readouterr() == ("", "")
    assert len(list((runs.parent / "quiet").glob("*/*/result.json"))) == 1
    assert start(PROGRAM, [*line, "optimizer.rl=1"], quiet=True) == 2
    assert "optimizer.rl" in capsys.readouterr().out


def test_the_second_notebook_reads_a_ledger_and_trains_nothing(runs, monkeypatch):
    pytest.importorskip("matplotlib", reason="make notebooks installs it")
    monkeypatch.setenv("RUNS", str(runs))
    before = (runs / "ledger.jsonl").read_bytes()
    (path,) = (p for p in NOTEBOOKS if p.name.startswith("02_"))
    assert run_here(path) == 5
    assert (runs / "ledger.jsonl").read_bytes() == before
