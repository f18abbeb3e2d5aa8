"""How long steps and epochs of training take."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import lightning as L


@dataclass
class EpochTimes:
    """Holds the seconds of one epoch.

    Attributes:
        steps: the seconds of each step.
        validation: the seconds of the validation and of what it causes (`best.ckpt`).
    """

    steps: list[float] = field(default_factory=list)
    validation: float = 0.0

    @property
    def mean(self) -> float:
        """Return the mean seconds of a step: those of the whole epoch, without validation, over its steps."""
        return statistics.fmean(self.steps)

    def cycles(self, length: int) -> list[float]:
        """Return the mean seconds of a step in every `length` consecutive steps; a rest is left out."""
        last = len(self.steps) - length + 1
        return [statistics.fmean(self.steps[i : i + length]) for i in range(0, last, length)]


class StepTimer(L.Callback):
    """Measures every step of every epoch, from the start of one batch to the start of the next, with nothing between.

    So loading, all callbacks, logging and what comes at intervals belong to a step, and the write of `last.ckpt` to the
    last step of an epoch; the steps of an epoch add up to the epoch, without its validation.

    Limits: put it first in the list of callbacks.

    Attributes:
        epochs: the times of each epoch.
    """

    def __init__(self) -> None:
        self.epochs: list[EpochTimes] = []
        self._step: float | None = None
        self._validation: float | None = None

    def _close(self, now: float) -> None:
        if self._step is not None:
            self.epochs[-1].steps.append(now - self._step)
        if self._validation is not None:
            self.epochs[-1].validation += now - self._validation
        self._step = self._validation = None

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append(EpochTimes())
        self._step = time.perf_counter()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        now = time.perf_counter()
        if batch_idx:
            self._close(now)
            self._step = now

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if self.epochs:  # a sanity check comes before the first
            now = time.perf_counter()
            self._close(now)
            self._validation = now

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._close(time.perf_counter())
