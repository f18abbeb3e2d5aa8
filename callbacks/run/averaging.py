"""Weight averages (EMA, SWA) that move only after real steps."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_avg_fn

from callbacks.step.stage import find_pipeline


class _CommittedAveraging(WeightAveraging):
    """Updates the average once per committed step, at every `every`-th one from `start` on."""

    _pipeline = None
    _seen = 0

    def __init__(self, every: int, start: int, decay: float | None):
        # buffers are copied, not averaged: an average of integer counters and running variances has no meaning
        if decay is None:
            super().__init__(use_buffers=False)
        else:
            super().__init__(use_buffers=False, avg_fn=get_ema_avg_fn(decay=decay))
        self.every, self.start = every, start

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pipeline = find_pipeline(trainer)
        self._seen = self._pipeline.t if self._pipeline else 0

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # The module holds the average since `on_train_end`; kept, it would stand in for whatever weights a later
        # `Trainer.validate` is to evaluate.
        if stage == "fit":
            self._average_model = None

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None:
            return False
        t = self._pipeline.t if self._pipeline else step_idx + 1
        moved, self._seen = t > self._seen, t
        return moved and t >= self.start and t % self.every == 0


class EMAWeights(_CommittedAveraging):
    """Keeps an exponential moving average of the weights, which validation and the saved `state_dict` use.

    Lightning's own averaging also counts steps that a gate or an AMP scaler has skipped; this one asks the
    `StepPipeline`.

    Example::

        callbacks:
          ema: {_target_: callbacks.EMAWeights, decay: 0.999, start: 0}

    Limits: it does not work with sharded strategies (as Lightning's `WeightAveraging`). Without a `StepPipeline` every
    optimiser step counts.

    Args:
        decay: the factor on the average in each update.
        every: the number of committed steps between updates.
        start: the first committed step that counts.
    """

    def __init__(self, decay: float = 0.999, every: int = 1, start: int = 0):
        super().__init__(every, start, decay)


class SWAWeights(_CommittedAveraging):
    """Keeps the equal-weight average of the weights at certain committed steps (Izmailov et al. 2018).

    Example::

        callbacks:
          swa: {_target_: callbacks.SWAWeights, start: 5000, every: 100}

    Limits: as `EMAWeights`; the learning-rate part of SWA is the schedule's business; normalisation statistics are
    those of the last step, not recomputed for the averaged weights.

    Args:
        start: the first committed step that counts.
        every: the number of committed steps between updates.
    """

    def __init__(self, start: int, every: int = 100):
        super().__init__(every, start, None)
