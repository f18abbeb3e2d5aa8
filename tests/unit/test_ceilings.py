"""`asgml.adaptive.ceilings`: what each modality reaches alone, from the finished unimodal runs of a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from asgml_runs import config, overrides, prepare, write_features
from toys import FixedProbe, asgml, train

from asgml.rhythm.schedule import Adaptive
from asgml.run import Tree, dead
from asgml.run import train as run
from callbacks.errors import UserError
from suite.runs.identity import run_dir
from suite.runs.launch import launch
from suite.runs.provenance import read_result

# What only an adaptive run reads, so that no unimodal run can be given it.
OWN = [
    "method=asgml_adaptive",
    "asgml.adaptive.tau_max=3",
    "asgml.adaptive.kappa=4",
    "asgml.warmup=fresh",
    "asgml.gamma=2",
]


def test_auto_takes_the_best_validation_accuracy_of_the_unimodal_runs(tmp_path: Path) -> None:
    npz = write_features(tmp_path / "data.npz")
    line = [*overrides(npz, tmp_path / "runs"), "trainer.max_epochs=1"]
    cfg = config(npz, tmp_path / "runs", "trainer.max_epochs=1", *OWN, "asgml.adaptive.ceilings=auto")
    with pytest.raises(UserError, match=r"(?s)ceilings=auto.*method=unimodal methods\.unimodal\.modality=audio"):
        prepare(cfg)
    expected = {}
    for m in ("audio", "visual"):
        given = [*line, "method=unimodal", f"methods.unimodal.modality={m}"]  # the remedy, as typed
        launch("asgml", run, dead, schema=Tree, argv=given)
        alone = config(npz, tmp_path / "runs", "trainer.max_epochs=1", *given[-2:])
        expected[m] = read_result(run_dir(alone))["val_best"]["accuracy"]
    assert prepare(cfg).module.rhythm.config.adaptive.ceilings == expected
    assert expected["audio"] > expected["visual"]
    other = config(npz, tmp_path / "runs", "trainer.max_epochs=1", *OWN, "asgml.adaptive.ceilings=auto", "seed=1")
    with pytest.raises(UserError, match="no finished run of 'audio' alone"):
        prepare(other)


def test_a_ceiling_of_nobody_or_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="write 'visual' in place of 'visul'"):
        train(asgml("adaptive", adaptive={"ceilings": {"visul": 0.9}}), probe=FixedProbe({}))
    with pytest.raises(UserError, match="accuracies above 0"):
        Adaptive(ceilings={"audio": 0.0})
