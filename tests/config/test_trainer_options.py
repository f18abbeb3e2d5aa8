"""Options of the Trainer: those that are left to Lightning are one sign away, those that bend a result are refused."""

from __future__ import annotations

import inspect
from pathlib import Path

import lightning as L
import pytest
import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.errors import UserError
from suite.config.check import check
from suite.config.compose import Composer, conf_dir
from suite.config.trainer import ELSEWHERE, OPTIONS, check_trainer, refuse_elsewhere
from suite.shell import closing_loggers

LINE = ["experiment=features", "data.path=x.npz"]


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer("asgml")


def test_every_option_of_the_trainer_has_its_place() -> None:
    node = yaml.safe_load((conf_dir() / "common" / "trainer" / "default.yaml").read_text())
    own = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    assert OPTIONS | set(ELSEWHERE) | {key for key in node if key != "_target_"} == own
    assert not OPTIONS & (set(ELSEWHERE) | set(node))


def test_one_that_the_tree_does_not_set_is_told_as_it_is_typed(composer: Composer) -> None:
    with pytest.raises(UserError) as error:
        composer.compose([*LINE, "trainer.limit_train_batches=2"])
    assert error.value.remedy == "type +trainer.limit_train_batches=2"
    cfg = composer.compose([*LINE, error.value.remedy.removeprefix("type ")])
    check_trainer(cfg)
    assert cfg.trainer.limit_train_batches == 2


def test_an_option_that_takes_objects_says_which(composer: Composer) -> None:
    with pytest.raises(UserError) as error:
        check(composer.compose([*LINE, "+trainer.plugins=x"]))
    assert "a node with a _target_: Precision or ClusterEnvironment" in error.value.expected
    assert "isinstance" not in str(error.value)


@pytest.mark.parametrize("option", ["fast_dev_run=true", "overfit_batches=2", "limit_test_batches=1", "barebones=true"])
@pytest.mark.parametrize("sign", ["", "+"])
def test_numbers_of_a_part_of_the_data_are_no_result(option: str, sign: str, composer: Composer) -> None:
    with pytest.raises(UserError, match=option.partition("=")[0]):
        refuse_elsewhere([f"{sign}trainer.{option}"])
    with pytest.raises(UserError, match=option.partition("=")[0]):
        check_trainer(composer.compose([*LINE, f"+trainer.{option}"]))


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        (["trainer.max_epochs=3", "trainer.check_val_every_n_epoch=4"], ["trainer.check_val_every_n_epoch=3"]),
        (["+trainer.limit_val_batches=0"], []),
    ],
)
def test_a_training_without_validation_is_refused_before_it_begins(
    typed: list[str], remedy: list[str], composer: Composer
) -> None:
    with pytest.raises(UserError, match="at least one validation"):
        check_trainer(composer.compose([*LINE, *typed]))
    check_trainer(composer.compose([*LINE, *typed[: len(remedy)], *remedy]))


def test_a_training_without_a_step_is_refused_before_it_begins(composer: Composer) -> None:
    for none in ("0", "0.0"):
        with pytest.raises(UserError, match="at least one batch"):
            check_trainer(composer.compose([*LINE, f"+trainer.limit_train_batches={none}"]))


def test_validation_within_the_first_epoch_is_one(composer: Composer) -> None:
    within = ["trainer.max_epochs=1", "trainer.check_val_every_n_epoch=4", "+trainer.val_check_interval=2"]
    check_trainer(composer.compose([*LINE, *within]))


def test_what_lightning_refuses_at_the_sight_of_the_data_is_told_as_the_users(tmp_path: Path) -> None:
    trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path)
    with pytest.raises(UserError, match="limit_train_batches"), closing_loggers(trainer):
        raise MisconfigurationException("0.5 * 1 < 1. Please increase the `limit_train_batches` argument.")


@pytest.mark.parametrize("epochs", ["-1", "null"])
def test_a_training_without_an_end_is_refused(epochs: str, composer: Composer) -> None:
    """Lightning trains a thousand epochs where nothing is set, and for ever with -1."""
    line = [*LINE, f"trainer.max_epochs={epochs}"]
    with pytest.raises(UserError, match="an end of training"):
        check_trainer(composer.compose(line))
    check_trainer(composer.compose([*line, "trainer.max_steps=5"]))
    check_trainer(composer.compose([*line, "+trainer.max_time=00:01:00:00"]))
