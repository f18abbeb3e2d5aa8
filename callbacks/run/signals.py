"""GracefulStop: a signal ends the run after the step under way, saved, with exit code 143."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from types import FrameType
from typing import Any, NoReturn

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.errors import UserError
from callbacks.run import restart
from callbacks.run.checkpoint import StepCheckpoint
from callbacks.run.stderr import say_at_once

EXIT_CODE = 143  # 128 + SIGTERM


class GracefulStop(Checkpoint):
    """Ends a run on SIGTERM: the step is finished, `last.ckpt` written (`StepCheckpoint`), and the exit code is 143.

    The handler only notes the signal. At the end of each step the ranks agree (a signal to any one of them counts), all
    callbacks have seen the step, and the checkpoint is that of a step boundary. A second signal ends the process at
    once, as does the first one outside of training (sanity check, test), where there is nothing to save; the exit code
    is the same. A signal during a validation takes effect at once if `last.ckpt` is already that of this very step
    (always so at the end of an epoch with `every_n_epochs: 1`): the validation is then repeated on resuming. Otherwise,
    and with several ranks, the validation is finished and the run stops after the next step; if none follows, after the
    end of training.

    It stands in for Lightning's own SIGTERM handling, which ends without saving and with exit code 0. As a `Checkpoint`
    it is put last by Lightning, after all other callbacks' `on_train_batch_end`.

    Example::

        callbacks:
          checkpoint: {_target_: callbacks.StepCheckpoint, dirpath: checkpoints}
          stop: {_target_: callbacks.GracefulStop, signals: [SIGTERM, SIGUSR1]}

    Limits: it needs a `StepCheckpoint`, and works in the main thread only. With several ranks it costs one small
    reduction per step. It does not requeue a SLURM job; with `signals: [SIGUSR1]` it takes the place of Lightning's
    requeue handler.

    Args:
        signals: the names of the signals that stop the run; null is SIGTERM.

    Raises:
        UserError: unknown signal, or no `StepCheckpoint` among the callbacks.
        SystemExit: with code 143, when a signal has come.
    """

    def __init__(self, signals: list[str] | None = None):
        names = ["SIGTERM"] if signals is None else list(signals)
        known = signal.Signals.__members__
        for name in names:
            if name not in known or name in ("SIGKILL", "SIGSTOP"):
                raise UserError(
                    "GracefulStop.signals", name, "names such as SIGTERM or SIGUSR1", "set signals=[SIGTERM]"
                )
        self.signals = [known[name] for name in names]
        self.received = False
        self._training = False
        self._originals: dict[signal.Signals, Any] = {}
        self._pid = os.getpid()

    best_model_path = ""  # Lightning asks the first checkpoint callback for it

    # -- handlers

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._checkpoint(trainer)
        if threading.current_thread() is not threading.main_thread():
            warnings.warn("GracefulStop: not in the main thread, no signal arrives here", stacklevel=2)
            return
        self._pid, self.received, self._training = os.getpid(), False, False
        # Remembered before Lightning registers its own handlers, which those of this callback then replace.
        self._originals = {number: signal.getsignal(number) for number in self.signals}

    def _install(self, *_: Any) -> None:
        for number in self._originals:
            signal.signal(number, self._handle)

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._install()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._install()
        self._training = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._install()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._install()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._install()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # inherited by a child process
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self.received or not self._training:
            self._exit()
        self.received = True
        say_at_once(f"\n{signal.Signals(number).name}: stopping after this step; once more to stop at once\n")

    def _restore(self) -> None:
        self._training = False
        for number, original in self._originals.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, original)
        self._originals = {}

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):  # came before this callback's handler was in place
            exception.code = EXIT_CODE
        self._restore()

    # -- stopping

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._agreed(trainer) and not restart.stops_here(trainer):
            self._checkpoint(trainer).save_last(trainer)
            self._exit()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.received and trainer.state.fn == TrainerFn.FITTING and trainer.world_size == 1:
            if self._checkpoint(trainer).saved_step == restart.steps_done(trainer):
                self._exit()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.received = self._agreed(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.received:
            self._exit()
        self._training = False

    def _agreed(self, trainer: L.Trainer) -> bool:
        if trainer.world_size == 1:
            return self.received
        return bool(trainer.strategy.reduce_boolean_decision(self.received, all=False))

    def _checkpoint(self, trainer: L.Trainer) -> StepCheckpoint:
        callbacks: list[L.Callback] = getattr(trainer, "callbacks")  # noqa: B009  (Lightning does not declare it)
        found = next((c for c in callbacks if isinstance(c, StepCheckpoint)), None)
        if found is None:
            raise UserError(
                "callbacks",
                "GracefulStop without StepCheckpoint",
                "both: what is stopped must be saved",
                "add callbacks.StepCheckpoint to the callbacks",
            )
        return found

    def _exit(self) -> NoReturn:
        raise SystemExit(EXIT_CODE)
