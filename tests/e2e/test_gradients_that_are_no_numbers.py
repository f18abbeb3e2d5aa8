"""Gradients that are NaN under losses that are not: in all three programs one screen, with the first bad step."""

from __future__ import annotations

import json
from pathlib import Path

import feedback_runs
import lw_runs
import pytest
from asgml_runs import overrides, write_features

from callbacks.stages.gate import TooManySkips
from suite.runs.study import Program

POISON = "+callbacks.poison={_target_:poison.PoisonGradients,prefix:%s,first:%d}"
FEW = "callbacks.gate.max_consecutive_skips=3"


def run(program: Program, line: list[str]) -> None:
    from suite.runs.launch import launch

    launch(program.name, program.task, program.dead, schema=program.schema, judge=program.judge, argv=line)


def screen(program: Program, line: list[str], runs: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that has to fail on one screen, and return that."""
    with pytest.raises(SystemExit) as end:
        run(program, line)
    seen = capsys.readouterr()
    assert end.value.code == 2, seen.out + seen.err
    assert "Traceback" not in seen.out + seen.err
    (result,) = runs.rglob("result.json")
    assert json.loads(result.read_text())["status"] == "failed"
    return seen.err


def test_asgml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from asgml.run import PROGRAM

    runs = tmp_path / "runs"
    line = [*overrides(write_features(tmp_path / "f.npz"), runs), FEW, POISON % ("net.encoders.visual", 4)]
    told = screen(PROGRAM, line, runs, capsys)
    assert "gradients, step 4, batch 4 of epoch 0" in told
    assert "fresh gradient not finite: visual (nan)" in told
    assert "3 optimiser steps in a row were skipped, up to step 4, batch 6 of epoch 0" in told
    assert "remedy:   set optimizer.lr=0.005" in told


def test_feedback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from asgml.feedback.run import PROGRAM

    runs = tmp_path / "runs"
    line = [*feedback_runs.overrides(tmp_path / "data", runs), FEW, POISON % ("model.text_adapters", 1)]
    told = screen(PROGRAM, line, runs, capsys)
    assert "gradients, step 1, batch 1 of epoch 0" in told
    assert "not finite: text_adapter (nan)" in told
    assert "remedy:   set stages.text.lr=" in told


def test_latentwire(tmp_path: Path) -> None:
    """The remedy names the rate that acts: here that of the kind of the group, not the optimiser's."""
    cfg = lw_runs.config(tmp_path, FEW, POISON % ("wire.encoder", 2))
    with pytest.raises(TooManySkips) as error:
        lw_runs.fit(cfg)
    assert error.value.where == "gradients, step 2, batch 2 of epoch 0"
    assert "not finite: encoder (nan)" in error.value.found
    assert error.value.remedy.startswith("set group_lr.encoder=")


def test_updates_that_no_weight_can_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A learning rate below what float32 adds: every step is taken, nothing is learned, and no loss is odd."""
    from asgml.run import PROGRAM

    runs = tmp_path / "runs"
    line = [*overrides(write_features(tmp_path / "f.npz"), runs), "optimizer.lr=1e-30", "callbacks.diagnostics.every=1"]
    assert "no step that was logged has moved any weight" in screen(PROGRAM, line, runs, capsys)
