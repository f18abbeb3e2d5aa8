"""A small study from command to table and report, and the notebook on what it left."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from asgml_runs import overrides, write_features

from asgml.study import PROGRAM
from suite.runs.study import Study, run_study

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    npz = write_features(folder / "f.npz", kind="image")
    rows = (("method=joint",), ("method=ogm_ge",), ("method=unimodal", "methods.unimodal.modality=audio"))
    tiny = Study("features", (0, 1), rows)
    given = [o for o in overrides(npz, folder / "runs") if not o.startswith("experiment=")]
    assert run_study(PROGRAM, tiny, "tiny", given) == 0
    assert run_study(PROGRAM, tiny, "tiny", given) == 0  # nothing runs twice
    return folder / "runs"


def test_a_study_ends_with_a_table_and_a_self_contained_report(runs):
    rows = [json.loads(line) for line in (runs / "ledger.jsonl").open()]
    assert len(rows) == 6
    assert {r["status"] for r in rows} == {"finished"}
    table = (runs / "tiny" / "table.md").read_text()
    for label in ("joint", "ogm_ge", "unimodal audio"):
        assert label in table
    html = (runs / "tiny" / "report.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"https?:", html)
    single = next((runs / "tiny").glob("*/report.html")).read_text()
    assert "accuracy" in single


def test_the_notebook_runs_on_a_ledger(runs, monkeypatch, capsys):
    monkeypatch.setenv("RUNS", str(runs))
    notebook = json.loads((ROOT / "notebooks" / "ledger.ipynb").read_text())
    scope: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "ledger.ipynb", "exec"), scope)
    assert "joint" in capsys.readouterr().out
