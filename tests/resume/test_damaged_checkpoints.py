"""A checkpoint in which anything has changed is never used: the one before it is, or nothing, and the user is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from damage import DAMAGE, Damage, flipped
from resume_toy import assert_same, build, fit

from callbacks.errors import UserError
from callbacks.run.stored import ANEW, resume_point, write_checkpoint

MINE = {"config_hash": "aaa", "config": {}}


class PowerCut(L.Callback):
    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 8:
            raise RuntimeError("power cut")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(RuntimeError, match="power cut"):
        fit(folder, extra=(PowerCut(),), checkpoint=MINE)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return fit(tmp_path_factory.mktemp("whole"), checkpoint=MINE)


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """Return the folder of a run that was stopped after eight steps, with `last.ckpt` and `previous.ckpt`."""
    return shutil.copytree(stopped, tmp_path / "run")


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_the_previous_one_is_used_and_both_are_named(damage: Damage, run: Path) -> None:
    folder = run / "checkpoints"
    damage(folder / "last.ckpt")
    found = resume_point(folder, "aaa")
    assert found.path == folder / "previous.ckpt"
    (said,) = found.remarks
    assert str(folder / "last.ckpt") in said
    assert str(folder / "previous.ckpt") in said


def test_continued_from_the_previous_one_the_run_is_the_same(run: Path, whole: dict[str, Any]) -> None:
    folder = run / "checkpoints"
    flipped(0.4)(folder / "last.ckpt")
    assert_same(whole, fit(run, resume_point(folder, "aaa").path, checkpoint=MINE))
    assert resume_point(folder, "aaa").path == folder / "last.ckpt"
    (folder / "last.ckpt").unlink()  # the damaged one has not taken the place of the one before
    assert resume_point(folder, "aaa").path == folder / "previous.ckpt"


def test_a_kill_between_two_renames_loses_one_save(run: Path, whole: dict[str, Any]) -> None:
    folder = run / "checkpoints"
    (folder / "last.ckpt").unlink()
    found = resume_point(folder, "aaa")
    assert (found.path, found.remarks) == (folder / "previous.ckpt", ())
    assert_same(whole, fit(run, found.path, checkpoint=MINE))


def test_without_an_intact_one_there_is_one_screen(run: Path) -> None:
    folder = run / "checkpoints"
    flipped(0.4)(folder / "last.ckpt")
    flipped(0.6)(folder / "previous.ckpt")
    with pytest.raises(UserError, match=r"previous\.ckpt: damaged") as told:
        resume_point(folder, "aaa")
    assert told.value.remedy == ANEW
    assert len(str(told.value).splitlines()) == 4


@pytest.mark.parametrize(
    "content", [{"state_dict": {}, "callbacks": {"StepCheckpoint": MINE}}, {"a": 1}, {"callbacks": 3}]
)
def test_the_checkpoint_of_another_run_or_program_is_passed_over(content: dict[str, Any], run: Path) -> None:
    folder = run / "checkpoints"
    write_checkpoint(content, folder / "last.ckpt")
    with pytest.raises(UserError, match=r"another run|no checkpoint of a training"):
        resume_point(folder, "bbb")
    if "state_dict" not in content:
        assert resume_point(folder, "aaa").path == folder / "previous.ckpt"


def test_one_without_a_seal_is_used_and_told(run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    torch.save(torch.load(last, weights_only=True), last)
    found = resume_point(last.parent, "aaa")
    assert found.path == last
    assert "no SHA-256" in found.remarks[0]


def test_a_trainer_refuses_it_whoever_gives_it(run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    flipped(0.4)(last)
    trainer, module, (train, val) = build(run, checkpoint=MINE)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(UserError, match="damaged or edited"):
        trainer.fit(module, train, val, ckpt_path=str(last))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
