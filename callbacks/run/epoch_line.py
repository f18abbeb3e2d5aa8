"""EpochLine: one line per epoch that stays on the screen and in a log."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor

from callbacks.step.console import rank_zero_print
from callbacks.step.pipeline import StepPipeline
from callbacks.step.stage import find_pipeline


class EpochLine(L.Callback):
    """Prints a line at the end of every epoch, which stays on the screen and in the log of a run without a terminal.

    For example::

        epoch 3/30  train/loss 1.52  val/accuracy 0.713 audio 0.690 visual 0.307  4.1 s  lr 0.05  held audio 6/12
        skipped 1  ETA 1:51

    (on one line). In order: the epoch; means over its committed steps; what this epoch's validation logged; seconds,
    validation included; the learning rate that the next step has, by group where they differ; the committed steps in
    which a group stood still or applied an old gradient; the steps in which nothing was applied; the time to the end of
    training at the mean pace of this process. What there is nothing to say about is left out.

    Example::

        callbacks:
          epoch_line: {_target_: callbacks.EpochLine, trained: [train/loss], validated: [val/accuracy]}

    Limits: only rank 0 prints. Means, counts and seconds of a resumed epoch begin at the restart. Without a
    `StepPipeline` a step's metrics are the newest that were logged, and nothing is counted. An early stop is not
    foreseen.

    Args:
        trained: the step metrics to show, as the pipeline's stages name them.
        validated: the validation metrics to show; a name stands for all below it too (`val/accuracy` for
            `val/accuracy/audio`).
    """

    def __init__(self, trained: Sequence[str] = ("train/loss",), validated: Sequence[str] = ("val/accuracy",)):
        self.trained, self.validated = list(trained), list(validated)
        self._pipeline: StepPipeline | None = None
        self._begun = 0.0
        self._epochs: list[float] = []  # seconds of each whole epoch of this process
        self._validation: dict[str, float] = {}
        self._begin()

    def _begin(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._delayed: Counter[str] = Counter()
        self._steps = self._vetoed = 0
        self._validation = {}
        self._rates = ""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pipeline = find_pipeline(trainer)
        self._epochs = []
        self._begun = time.perf_counter()  # an epoch that is resumed midway, or at its end, is not started again

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin()
        self._begun = time.perf_counter()

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self._rates = rates(trainer)  # of this step; when it has been taken, schedules have set those of the next

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        ctx = self._pipeline.ctx if self._pipeline else None
        if ctx is None:
            return
        if ctx.veto is not None:
            self._vetoed += 1
            return
        self._steps += 1
        for name in self.trained:
            if name in ctx.metrics:
                self._sums[name] += ctx.metrics[name]
                self._counts[name] += 1
        for group, plan in ctx.plan.groups.items():
            if plan.idle:
                self._held[group] += 1
            elif plan.delay:
                self._delayed[group] += 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        logged = trainer.callback_metrics
        chosen = [n for name in self.validated for n in logged if n == name or n.startswith(f"{name}/")]
        self._validation = {name: float(logged[name]) for name in dict.fromkeys(chosen)}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        seconds = time.perf_counter() - self._begun
        self._epochs.append(seconds)
        if self._pipeline is None:
            values = {n: float(trainer.callback_metrics[n]) for n in self.trained if n in trainer.callback_metrics}
        else:
            values = {name: self._sums[name] / n for name, n in self._counts.items()}
        last = epochs_of(trainer)
        done = trainer.current_epoch + 1
        parts = [
            f"epoch {done}/{last}" if last else f"epoch {done}",
            *(f"{name} {value:.4g}" for name, value in values.items()),
            *grouped(self._validation, self.validated),
            f"{seconds:.1f} s",
            self._rates or rates(trainer),
            f"held {counted(self._held, self._steps)}" if self._held else "",
            f"delayed {counted(self._delayed, self._steps)}" if self._delayed else "",
            f"skipped {self._vetoed}" if self._vetoed else "",
            f"ETA {clock((last - done) * sum(self._epochs) / len(self._epochs))}" if last and last > done else "",
        ]
        say(trainer, "  ".join(part for part in parts if part))


def say(trainer: L.Trainer, line: str) -> None:
    """Print a line on rank 0 beside whatever bar is on the screen; a rich one lets plain output through above it."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, TQDMProgressBar) and bar.is_enabled and trainer.is_global_zero:
        bar.print(line)
    else:
        rank_zero_print(line)


def epochs_of(trainer: L.Trainer) -> int | None:
    """Return the number of epochs that training will have, whether epochs or steps end it; None where neither does."""
    per_epoch = max(1, trainer.num_training_batches)  # infinite for a stream, and until there is a loader
    by_steps = -(-trainer.max_steps // int(per_epoch)) if trainer.max_steps > 0 and math.isfinite(per_epoch) else None
    limits = [n for n in (trainer.max_epochs, by_steps) if n is not None and n > 0]
    return min(limits, default=None)


def grouped(values: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """Return each name with its value and those below it: `val/accuracy 0.713 audio 0.690`."""
    out = []
    for name in names:
        below = [f"{n.removeprefix(f'{name}/')} {v:.3f}" for n, v in values.items() if n.startswith(f"{name}/")]
        if name in values or below:
            out.append(" ".join([name, *([f"{values[name]:.3f}"] if name in values else []), *below]))
    return out


def rates(trainer: L.Trainer) -> str:
    """Return the learning rate of the parameter groups, by name where they differ."""
    found = {
        str(options.get("name", f"group{number}")): f"{float(options['lr']):.3g}"
        for optimizer in trainer.optimizers
        for number, options in enumerate(optimizer.param_groups)
    }
    if not found:
        return ""
    same = len(set(found.values())) == 1
    return f"lr {next(iter(found.values()))}" if same else "lr " + ", ".join(f"{n} {lr}" for n, lr in found.items())


def counted(counts: Mapping[str, int], steps: int) -> str:
    """Return `audio 6/12, visual 3/12`."""
    return ", ".join(f"{group} {n}/{steps}" for group, n in counts.items())


def clock(seconds: float) -> str:
    """Return seconds as `1:51` or `2:03:20`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
