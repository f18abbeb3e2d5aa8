"""What `plan=true` says of a feedback run: steps by stage, memory, operations; nothing is rendered for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from feedback_runs import config, overrides, render

from asgml.feedback.foreseen import NO_DATA, foresee
from asgml.feedback.run import main


def test_steps_memory_and_operations_are_told(tmp_path: Path) -> None:
    cfg = config(tmp_path, tmp_path)
    assert foresee(cfg) == {"steps": NO_DATA, "memory": NO_DATA}
    assert not list(tmp_path.iterdir()), "nothing was rendered"
    render(tmp_path)
    told = foresee(cfg)
    assert told["steps"].startswith("10: 4 in 2 epochs of stage text, 6 in 2 epochs of stage image")
    assert "MiB in float32" in told["memory"]
    assert "TFLOP" in told["compute"]
    hub = {**cfg, "clip": {"_target_": "asgml.feedback.model.load_clip", "source": "some/clip"}}
    assert "clip.source=FOLDER" in foresee(type(cfg)(hub))["memory"]


def test_the_plan_shows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    render(tmp_path)
    monkeypatch.setattr("sys.argv", ["asgml.feedback.run", *overrides(tmp_path, tmp_path / "runs"), "plan=true"])
    main()
    told = " ".join(capsys.readouterr().out.split())
    for row in ("steps", "memory", "compute", "measured"):
        assert row in told
    assert not (tmp_path / "runs").exists()
