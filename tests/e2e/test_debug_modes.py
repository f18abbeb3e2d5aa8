"""`debug=overfit` and `debug=one_step` end with a verdict that names what is dead."""

from __future__ import annotations

from pathlib import Path

import pytest
from asgml_runs import overrides, write_features

from asgml.run import Tree, dead, train
from suite.runs.launch import launch


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("debug") / "f.npz")


def run(npz: Path, tmp_path: Path, *more: str) -> int:
    given = [o for o in overrides(npz, tmp_path) if "max_epochs" not in o and "batch_size=8" not in o]
    try:
        launch("asgml", train, dead, schema=Tree, argv=[*given, *more])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_overfit_reaches_zero(npz, tmp_path, capsys):
    assert run(npz, tmp_path, "debug=overfit", "trainer.max_epochs=150", "optimizer.lr=0.1") == 0
    told = capsys.readouterr().out
    assert told.splitlines()[-1].startswith("debug: PASS: train/loss"), "the verdict stands last"
    assert "last epoch" in told
    epochs = sum(line.startswith("epoch ") for line in told.splitlines())
    assert 0 < epochs < 150, "it stops where the goal is reached"
    assert f"after {epochs} steps" in told


def test_a_dead_group_is_named(npz, tmp_path, capsys):
    assert run(npz, tmp_path, "debug=overfit", "trainer.max_epochs=12", "+group_lr.visual=1e-30") == 2
    assert "debug: FAIL: parameter groups visual" in capsys.readouterr().err


def test_a_loss_that_stays_up_is_refused(npz, tmp_path, capsys):
    assert run(npz, tmp_path, "debug=overfit", "trainer.max_epochs=10") == 2
    told = capsys.readouterr().err
    assert "debug: FAIL: train/loss" in told
    assert "after 10 steps" in told


def test_one_step_says_who_is_held_back(npz, tmp_path, capsys):
    assert run(npz, tmp_path, "debug=one_step") == 0
    assert "audio 0 (held back)" in capsys.readouterr().out
