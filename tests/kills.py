"""Ends of a process in the middle of training."""

from __future__ import annotations

from typing import Any

import lightning as L

from callbacks.run.signals import GracefulStop


class Killed(RuntimeError):
    """Stands for the end of a process."""


class Kill(L.Callback):
    """Ends the run in a step: without a word, or by asking `GracefulStop` as a signal would."""

    def __init__(self, step: int, graceful: bool):
        self.step, self.graceful = step, graceful

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.step:
            if not self.graceful:
                raise Killed
            next(c for c in trainer.callbacks if isinstance(c, GracefulStop)).received = True
