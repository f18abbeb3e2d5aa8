"""What `plan=true` says of a feedback run: steps by stage, memory, operations; nothing is rendered for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from feedback_runs import config, overrides, prepare, render

from asgml.feedback.foreseen import NO_DATA, foresee, kept_and_operations
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


@pytest.mark.parametrize("stage", [0, 1])
def test_twice_the_pictures_keep_and_compute_twice_as_much(stage: int, tmp_path: Path) -> None:
    parts = prepare(config(tmp_path / "data", tmp_path / "runs"))
    train = parts.data.surfaces["train"]
    samples = list({s.class_name: train[i] for i, s in enumerate(train.samples)}.values())  # one of each class
    batches = [{k: torch.stack([s[k] for s in samples[:n]]) for k in samples[0]} for n in (1, 2)]
    one, two = (kept_and_operations(parts.module, parts.module.plan.stages[stage], batch) for batch in batches)
    assert two[0] == pytest.approx(2 * one[0], rel=0.1)
    assert two[1] == pytest.approx(2 * one[1], rel=0.01)
    assert all(p.grad is None for p in parts.module.parameters())


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
