"""The published number, selected on test: what it is, that training does not notice it, and that no choice reads it."""

from __future__ import annotations

import csv

import lightning as L
import numpy as np
import pytest
import torch
from asgml_runs import compose, differing, fit, overrides, rows, weights, write_features
from omegaconf import OmegaConf, open_dict

from asgml.report.best_on_test import best_on_test_table
from asgml.run import train
from asgml.train.best_on_test import BestOnTest
from callbacks.errors import UserError
from suite.config.compose import Composer
from suite.report.data import read_runs
from suite.report.grouping import group_runs
from suite.runs.identity import run_dir
from suite.runs.job import execute

EPOCHS = 4


PEEK = "+callbacks.published_best_on_test._target_=asgml.train.BestOnTest"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("peek")
    npz = write_features(folder / "f.npz")
    return [*overrides(npz, folder / "runs"), "method=asgml_staleness", f"trainer.max_epochs={EPOCHS}"]


class Accuracies(L.Callback):
    """Keeps every epoch's test accuracy, computed sample by sample from the fused logits of the network alone."""

    def __init__(self) -> None:
        self.found: list[float] = []

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        table = trainer.datamodule.table("test")  # type: ignore[attr-defined]
        net = pl_module.net.eval()
        keys = np.zeros(len(table), np.uint64)  # no augmentation
        x = {m: table.transforms[m](values, keys, False) for m, values in table.x.items()}
        right = 0
        for i, y in enumerate(table.y):
            features = {m: net.encoders[m](values[i : i + 1]) for m, values in x.items()}
            right += int(net.fusion(features).argmax()) == y
        pl_module.net.train()
        self.found.append(right / len(table.y))


def test_it_is_the_highest_of_the_test_accuracies_after_each_epoch(line: list[str]) -> None:
    own, found = Accuracies(), BestOnTest()
    fit(compose([*line, "seed=1"]), [found, own])
    assert len(own.found) == EPOCHS == found.evaluations
    assert found.accuracy == pytest.approx(max(own.found))
    assert found.epoch == own.found.index(max(own.found))
    assert len(set(own.found)) > 1, "the highest is not that of every epoch"


def test_training_does_not_notice(line: list[str]) -> None:
    cfg, plain = compose([*line, PEEK]), compose(line)
    with_it, without = fit(cfg), fit(plain)
    assert differing(weights(with_it), weights(without)) == []
    assert rows(cfg, "history.csv") == rows(plain, "history.csv")
    assert rows(cfg, "timeline.csv") == rows(plain, "timeline.csv")


def test_the_result_and_the_table_hold_it_apart_from_what_validation_chose(line: list[str]) -> None:
    cfg = compose([*line, PEEK, "seed=2"])
    result = execute(cfg, "asgml", train).result
    published = result[BestOnTest.RESULT]
    assert published["evaluations"] == EPOCHS
    assert published["accuracy"] >= max(result["test"]["accuracy"], result["test_best"]["accuracy"])
    (frames,) = group_runs(read_runs([run_dir(cfg)]))
    table = best_on_test_table(frames)
    assert table is not None
    assert f"{100 * published['accuracy']:.2f}" in [cell.text for cell in table.rows[0]]
    with (run_dir(cfg) / "history.csv").open(encoding="utf-8") as file:
        assert not [row for row in csv.reader(file) if row[2].startswith("test")], "a log that a choice could read"
    resumed = BestOnTest()
    resumed.load_state_dict(published)
    assert resumed.state_dict() == published


def test_a_regression_has_no_such_number(line: list[str]) -> None:
    with pytest.raises(UserError, match="leave protocol out"):
        fit(compose([*line, PEEK, "data.task=regression", "method=joint", "callbacks.probe=null"]))


# -- the flags
PUBLISHED = {
    "optimizer._target_": "torch.optim.SGD",
    "optimizer.lr": 0.001,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 0.0001,
    "optimizer.nesterov": False,
    "lr_schedule.kind": "step",
    "lr_schedule.step_epochs": 70,
    "lr_schedule.step_gamma": 0.1,
    "lr_schedule.warmup_steps": 0,
    "trainer.max_epochs": 100,
    "trainer.precision": "32-true",
    "loader.batch_size": 64,
    "model.encoder._target_": "asgml.model.ResNet18",
    "model.encoder.weights": None,
    "model.encoder.norm": "batch",
    "model.encoder.width": 64,
    "data.size": 224,
}


@pytest.mark.parametrize("experiment", ["cremad", "ave", "kinetics_sounds"])
def test_the_flags_are_exactly_the_published_hyper_parameters(experiment: str) -> None:
    composer = Composer("asgml")
    plain, published, best = (
        composer.compose([f"experiment={experiment}", "method=joint", *flag])
        for flag in ([], ["protocol=published"], ["protocol=published_best_on_test"])
    )
    assert {key: OmegaConf.select(published, key) for key in PUBLISHED} == PUBLISHED
    assert "published_best_on_test" not in {**plain.callbacks, **published.callbacks}
    with open_dict(best):
        assert best.callbacks.pop("published_best_on_test") == {"_target_": "asgml.train.BestOnTest"}
    assert best == published
    published.optimizer = plain.optimizer
    assert published == plain, "beside the optimiser, the experiments are the published protocol already"
