"""Clock: milliseconds and peak memory of a run's steps, once it is warm."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch

from callbacks.step.pipeline import peak_memory_mb
from suite.accelerator.section import Place


class Clock(L.Callback):
    """Measures the steps after the first few, as a whole: the device works behind the host's back within them.

    Stands before all other callbacks.

    Args:
        place: where the run is.
        warm: the number of steps that allocate, compile and are not counted.

    Attributes:
        ms: the mean milliseconds of a step.
        peak_mb: the peak of allocated memory in MiB during the counted steps; on the CPU that of the process.
    """

    def __init__(self, place: Place, warm: int):
        self.place, self.warm = place, warm
        self.ms = self.peak_mb = 0.0
        self._start = 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.warm:
            self.place.wait()
            if self.place.cuda:
                torch.cuda.reset_peak_memory_stats(self.place.device)
            self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.place.wait()
        self.ms = 1e3 * (time.perf_counter() - self._start) / (trainer.num_training_batches - self.warm)
        self.peak_mb = peak_memory_mb()
