"""`make accelerator`, rehearsed on the CPU: every section runs to its end and keeps its promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.accelerator.__main__ import main, registered
from suite.accelerator.results import Results


@pytest.mark.slow
def test_the_dry_run_asks_everything_and_writes_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["asgml", "--dry"]) == 0
    assert not (tmp_path / "docs").exists()
    answers = Results(tmp_path / "runs" / "accelerator" / "dry").answers
    assert list(answers) == [s.name for s in registered(["asgml"])["asgml"]]
    assert {a.status for a in answers.values()} == {"done"}
    verdicts = [row.verdict for a in answers.values() for row in a.rows]
    assert verdicts.count("passed") >= 15
    assert [row.name for a in answers.values() for row in a.rows if row.verdict == "not done"] == ["storage"]
    modes = [row.name for row in answers["modes"].rows]
    assert {"joint", "frequency hard, k = 2", "staleness, tau = 2", "adaptive", "boost"} <= set(modes)
