"""A loss or a score that is no number ends a run of latentwire and of the feedback program, as it does one of asgml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import feedback_runs
import pytest
from lw_runs import SMALL

from asgml.feedback import run as feedback
from latentwire import run as latentwire
from suite.runs.launch import launch

ONE_STEP = ["loader.steps_per_epoch=1", "trainer.max_epochs=1", "callbacks.diagnostics.every=1"]
# AdamW multiplies weights by 1 - lr * weight_decay, SGD adds lr * weight_decay of them: behind any number in one step
LOST = ["optimizer.weight_decay=1e37", *(f"group_lr.{kind}=1000" for kind in ("encoder", "adapter", "injector"))]


def ends(program: str, module: Any, line: list[str], capsys: pytest.CaptureFixture[str], runs: Path) -> str:
    """The one screen that a command line ends with, which has to be code 2."""
    with pytest.raises(SystemExit) as end:
        launch(program, module.train, module.dead, schema=module.Tree, judge=module.judge, argv=line)
    seen = capsys.readouterr()
    text = seen.out + seen.err
    assert end.value.code == 2, text
    assert "Traceback" not in text
    (result,) = [*runs.rglob("result.json")] or pytest.fail(text)
    assert json.loads(result.read_text())["status"] == "failed"
    return text


@pytest.mark.parametrize(
    ("line", "where", "remedy"),
    [
        (LOST, "training loss, step 1, batch 1 of epoch 0", "set group_lr.encoder=100"),
        ([*ONE_STEP, *LOST], "val loss after step 1", "set group_lr.encoder=100"),
    ],
    ids=["in training", "after the last step"],
)
def test_a_wire_whose_loss_is_no_number_is_not_finished(line, where, remedy, tmp_path: Path, capsys):
    small = [*SMALL, "callbacks.audit=null", f"paths.runs={tmp_path}", *line]
    text = ends("latentwire", latentwire, small, capsys, tmp_path)
    for told in (where, "expected: finite losses", remedy):
        assert told in text


@pytest.mark.parametrize(
    ("line", "where"),
    [
        (["optimizer=sgd", "optimizer.weight_decay=1e37", "stages.text.lr=1000", "stages.text.batch_size=2"],
         "training loss, step 1, batch 1 of epoch 0"),
        (["optimizer=sgd", "optimizer.weight_decay=1e37", "stages.text.lr=1000", "stages.text.batch_size=64"],
         "val scores after step 1"),
    ],
    ids=["in training", "after the last step"],
)  # fmt: skip
def test_a_feedback_system_whose_loss_is_no_number_is_not_finished(line, where, tmp_path: Path, capsys):
    given = feedback_runs.overrides(tmp_path / "data", tmp_path / "runs")
    given = [*given, "stages.text.epochs=1", "stages.image.epochs=0", "callbacks.share=null", *line]
    given = [word for word in given if not word.startswith(("stages.image.b", "stages.image.h", "callbacks.share.e"))]
    text = ends("asgml.feedback", feedback, given, capsys, tmp_path)
    for told in (where, "expected: finite", "remedy:   set stages.text.lr="):
        assert told in text
