"""Signals: the step is finished and saved, the exit code is 143, and the resumed run ends with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from resume_toy import assert_same, build, fit

from callbacks.errors import UserError
from callbacks.run.signals import GracefulStop

ROOT = Path(__file__).parents[2]


class Signal(L.Callback):
    """Sends signals to the own process at the n-th call of a hook."""

    def __init__(self, hook: str, call: int, times: int = 1):
        self.calls, self.after = 0, 0

        def count(*_: Any, **__: Any) -> None:
            self.calls += 1
            self.after += self.calls > call
            if self.calls == call:
                for _i in range(times):
                    os.kill(os.getpid(), signal.SIGTERM)

        setattr(self, hook, count)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return fit(tmp_path_factory.mktemp("whole"), val_check_interval=2)


# hook, its call that is interrupted, steps in last.ckpt afterwards
INTERRUPTIONS = {
    "in a step": ("on_train_batch_start", 7, 7),
    "in the optimiser's step": ("on_before_optimizer_step", 1, 1),
    "in a validation within an epoch": ("on_validation_batch_end", 3, 3),  # 2 calls are of the sanity check
    "between epochs": ("on_train_epoch_end", 1, 6),
}


@pytest.mark.parametrize("name", INTERRUPTIONS)
def test_stops_at_the_next_step_boundary(name: str, tmp_path: Path, reference: dict[str, Any]) -> None:
    hook, call, steps = INTERRUPTIONS[name]
    before = signal.getsignal(signal.SIGTERM)
    rare = {"val_check_interval": 2, "checkpoint": {"every_n_steps": None}}
    with pytest.raises(SystemExit) as stopped:
        fit(tmp_path, extra=(Signal(hook, call),), **rare)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last)["global_step"] == steps
    assert_same(reference, fit(tmp_path, last, **rare))


def test_validation_that_can_be_repeated_is_left_at_once(tmp_path: Path) -> None:
    interrupted = Signal("on_validation_batch_end", 3)
    with pytest.raises(SystemExit) as stopped:
        fit(tmp_path, extra=(interrupted,))
    assert stopped.value.code == 143
    assert interrupted.after == 0
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert_same(fit(tmp_path / "whole"), fit(tmp_path, last))


def test_signal_after_the_last_step_still_exits_143(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 10, "max_epochs": -1}
    with pytest.raises(SystemExit) as stopped:
        fit(tmp_path, extra=(Signal("on_train_epoch_end", 2),), **settings)
    assert stopped.value.code == 143
    resumed, reference = (
        fit(tmp_path, tmp_path / "checkpoints" / "last.ckpt", **settings),
        fit(tmp_path / "w", **settings),
    )
    assert resumed["history"] == reference["history"]
    assert all(torch.equal(resumed["weights"][key], value) for key, value in reference["weights"].items())


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_sanity_check_end"])
def test_second_signal_or_nothing_to_save_stops_at_once(hook: str, tmp_path: Path) -> None:
    times = 2 if hook == "on_train_batch_start" else 1
    with pytest.raises(SystemExit) as stopped:
        fit(tmp_path, extra=(Signal(hook, 1, times),))
    assert stopped.value.code == 143
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_in_a_test_run_the_exit_code_is_143_too(tmp_path: Path) -> None:
    class Tested(Signal):
        pass

    trainer, module, (_, val) = build(tmp_path, extra=(Tested("on_test_batch_end", 1),))
    module.test_step = module.validation_step
    with pytest.raises(SystemExit) as stopped:
        trainer.test(module, val, verbose=False)
    assert stopped.value.code == 143


def test_needs_a_checkpoint_and_known_signals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SIGTREM"):
        GracefulStop(["SIGTREM"])
    trainer = L.Trainer(callbacks=[GracefulStop()], logger=False, accelerator="cpu", default_root_dir=str(tmp_path))
    with pytest.raises(UserError, match="StepCheckpoint"):
        trainer.fit(build(tmp_path)[1], torch.utils.data.DataLoader([0]))


def start(folder: Path, workers: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, str(Path(__file__).with_name("resume_toy.py")), str(folder), str(workers), "0.1"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(program, env=environment, start_new_session=True, stdout=quiet, stderr=quiet)


@pytest.mark.slow
def test_sigterm_to_the_group_and_sigkill_of_a_process(tmp_path: Path) -> None:
    runs = {name: start(tmp_path / name, workers) for name, workers in (("term", 2), ("kill", 0))}
    pending = dict(runs)
    deadline = time.monotonic() + 60
    while pending and time.monotonic() < deadline:
        for name, process in list(pending.items()):
            if (tmp_path / name / "checkpoints" / "last.ckpt").exists():
                if name == "term":
                    os.killpg(process.pid, signal.SIGTERM)  # the data workers get it too
                else:
                    process.kill()
                del pending[name]
        time.sleep(0.02)
    assert not pending
    assert runs["term"].wait(30) == 143
    assert runs["kill"].wait(30) == -signal.SIGKILL
    whole = fit(tmp_path / "whole")
    for name in runs:
        assert not (tmp_path / name / "final.pt").exists()
        assert_same(whole, fit(tmp_path / name, tmp_path / name / "checkpoints" / "last.ckpt"))
