"""A loss that is no number any more ends the run, says since when and where, and never leaves a finished run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from asgml_runs import overrides, write_features
from foreign_toys import Foreign, foreign_batches
from toys import asgml, fit, toy_batches, toy_spec, train

from asgml.run import Tree, dead, judge
from asgml.run import train as run_of_asgml
from asgml.tune.tuner import diverged
from callbacks.stages.gate import StepGate, TooManySkips
from callbacks.step.divergence import Diverged
from callbacks.step.pipeline import StepPipeline
from suite.runs.launch import launch


def test_the_first_bad_step_its_batch_and_its_losses_are_named():
    with pytest.raises(Diverged) as error:
        train(asgml(), toy_batches(8, toy_spec(), poison=[3, 5]), gate=StepGate())
    assert error.value.where == "training loss, step 3, batch 3 of epoch 0"
    for told in ("fusion nan", "audio nan", "weights that are not finite: none"):
        assert told in error.value.found
    assert error.value.remedy == "set optimizer.lr=0.005"


def test_the_group_whose_weights_are_gone_is_named_with_its_own_rate():
    def ruin(module, pipeline):
        next(module.net.encoders["audio"].parameters()).data.fill_(float("inf"))

    with pytest.raises(Diverged) as error:
        train(asgml(), gate=StepGate(), before=ruin, module_options={"group_lr": {"audio": 0.4}})
    assert error.value.found.endswith("weights that are not finite: audio")
    assert error.value.remedy == "set ++group_lr.audio=0.04"


def test_an_epoch_of_gradients_that_are_not_finite_is_not_finished():
    with pytest.raises(TooManySkips, match=r"step 0, batch 0 of epoch 0\n.*not finite.*3 optimiser steps in a row"):
        fit(Foreign(False), foreign_batches(3, poison=[0, 1, 2]), [StepPipeline([StepGate()], announce=False)])
    pipeline = StepPipeline([StepGate()], announce=False)
    fit(Foreign(False), foreign_batches(3, poison=[1, 2]), [pipeline])
    assert (pipeline.t, pipeline.vetoed) == (1, 2)


@pytest.mark.parametrize(
    ("line", "where"),
    [
        # SGD adds lr * weight_decay of the weights: behind any number in one step
        (["optimizer.lr=1000", "optimizer.weight_decay=1e37"], "training loss, step 1, batch 1 of epoch 0"),
        (["optimizer.lr=1000", "optimizer.weight_decay=1e37", "loader.batch_size=80"], "val loss after step 1"),
    ],
    ids=["in training", "after the last step"],
)
def test_such_a_run_fails_with_code_2_on_one_screen(line, where, tmp_path: Path, capsys):
    given = [*overrides(write_features(tmp_path / "f.npz"), tmp_path / "runs"), "trainer.max_epochs=1", *line]
    with pytest.raises(SystemExit) as end:
        launch("asgml", run_of_asgml, dead, schema=Tree, judge=judge, argv=given)
    seen = capsys.readouterr()
    text = seen.out + seen.err
    assert end.value.code == 2, text
    assert "Traceback" not in text
    for told in (where, "expected: finite losses", "remedy:   set optimizer.lr="):
        assert told in text
    (result,) = (tmp_path / "runs").rglob("result.json")
    assert json.loads(result.read_text())["status"] == "failed"


def test_a_trial_whose_loss_is_no_number_has_diverged():
    """And is the worst of a row's trials, in place of a comparison that cannot go on."""
    for error in (Diverged, TooManySkips):
        assert diverged({"status": "failed", "error_type": error.__name__})
    assert not diverged({"status": "failed", "error_type": "UserError"})
