"""Stop at every step, resume, and end with the same bits and the same history."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import Checkpoint
from resume_toy import EPOCHS, STEPS_PER_EPOCH, assert_same, fit

STEPS = EPOCHS * STEPS_PER_EPOCH

# Trainer settings, and the number of steps they lead to.
SETTINGS: dict[str, tuple[dict[str, Any], int]] = {
    "validation at each epoch's end": ({}, 15),
    "validation twice within an epoch": ({"val_check_interval": 2}, 15),
    "validation every second epoch": ({"check_val_every_n_epoch": 2, "log_every_n_steps": 2}, 15),
    "validation across epochs, number of steps read while configuring": (
        {"val_check_interval": 4, "check_val_every_n_epoch": None, "counts_steps": True},
        15,
    ),
    "no validation": ({"limit_val_batches": 0, "checkpoint": {"monitor": None}}, 15),
    "fewer batches than the loader has": ({"limit_train_batches": 3, "check_val_every_n_epoch": 2}, 9),
    "max_steps within an epoch": ({"max_steps": 12, "max_epochs": -1}, 12),
}


class Killed(BaseException):
    """Stands for the end of the process."""


class Kill(Checkpoint):
    """Ends the run after a number of steps, right after `StepCheckpoint` has saved."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


class Keep(Checkpoint):
    """Keeps a copy of `last.ckpt` for every step."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        last = self.folder / "checkpoints" / "last.ckpt"
        shutil.copy(last, self.folder / f"{trainer.global_step}.ckpt")


@pytest.mark.parametrize("name", SETTINGS)
def test_resumed_from_any_step_is_identical(name: str, tmp_path: Path) -> None:
    settings, steps = SETTINGS[name]
    whole = tmp_path / "whole"
    reference = fit(whole, extra=(Keep(whole),), **settings)
    assert reference["steps"][0] == steps
    last = steps - 1 if "max_steps" in settings else steps
    for step in range(1, last + 1):
        # The tables as a run that was killed later has left them, with a torn line at the end.
        folder = tmp_path / str(step)
        folder.mkdir()
        (folder / "history.csv").write_text((whole / "history.csv").read_text() + "99,7,tr")
        assert_same(reference, fit(folder, whole / f"{step}.ckpt", **settings))


def test_resumed_after_an_exception_in_each_step(tmp_path: Path) -> None:
    settings: dict[str, Any] = {}
    reference = fit(tmp_path / "whole", **settings)
    for step in range(1, STEPS + 1):
        folder = tmp_path / str(step)
        with pytest.raises(Killed):
            fit(folder, extra=(Kill(step),), **settings)
        assert_same(reference, fit(folder, folder / "checkpoints" / "last.ckpt", **settings))


def test_resumed_again_and_again(tmp_path: Path) -> None:
    settings = {"val_check_interval": 2}
    reference = fit(tmp_path / "whole", **settings)
    folder, ckpt = tmp_path / "pieces", None
    for step in range(1, STEPS + 1):
        with pytest.raises(Killed):
            fit(folder, ckpt, extra=(Kill(step),), **settings)
        ckpt = folder / "checkpoints" / "last.ckpt"
    assert_same(reference, fit(folder, ckpt, **settings))


def test_workers_do_not_change_a_run_and_it_resumes(tmp_path: Path) -> None:
    reference = fit(tmp_path / "whole")
    assert_same(reference, fit(tmp_path / "workers", workers=2))
    for step in (3, STEPS_PER_EPOCH):
        folder = tmp_path / str(step)
        with pytest.raises(Killed):
            fit(folder, extra=(Kill(step),), workers=2)
        assert_same(reference, fit(folder, folder / "checkpoints" / "last.ckpt", workers=2))
