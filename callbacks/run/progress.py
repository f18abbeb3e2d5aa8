"""StepProgress: the progress bar shows what the step has read anyway."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from callbacks.run.epoch_line import epochs_of
from callbacks.step.stage import find_pipeline


class StepProgress(RichProgressBar):
    """Shows Lightning's rich progress bar without its own reads from the device.

    The original fetches every `prog_bar` metric after every batch, whatever its refresh rate, and waits for the device
    each time. This one shows the step's host values while training, and what was logged with `prog_bar` in the
    evaluations, which it fetches once per evaluation.

    Example::

        callbacks:
          progress: {_target_: callbacks.StepProgress, shown: [train/loss]}

    Limits: without a `StepPipeline` it reads like the original. A value that a step does not have (a vetoed one has
    none) stays as it was.

    Args:
        shown: the names of the metrics to show, of the pipeline's stages; null shows the training loss.
        leave: whether to leave the bars of finished epochs on the screen.
    """

    def __init__(self, shown: list[str] | None = None, leave: bool = False):
        super().__init__(leave=leave)
        self.shown = ["train/loss"] if shown is None else list(shown)
        self._values: dict[str, Any] = {}

    def _get_train_description(self, current_epoch: int) -> str:
        """Return `Epoch 1/N` for the first epoch, as the epoch line counts; Lightning's own begins with `Epoch 0/N-1`.

        It is padded to the widest description of the fit, lest the bar jump.
        """
        last = epochs_of(self.trainer)
        if last is None:
            return f"Epoch {current_epoch + 1}".ljust(len(self.validation_description))
        width = max(len(f"Epoch {last}/{last}"), len(self.validation_description))
        return f"Epoch {current_epoch + 1}/{last}".ljust(width)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        pipeline = find_pipeline(trainer)
        if pipeline is None or pipeline.ctx is None:
            return super().get_metrics(trainer, pl_module)
        if trainer.training:
            self._values.update({k: pipeline.ctx.metrics[k] for k in self.shown if k in pipeline.ctx.metrics})
        else:
            evaluated = super().get_metrics(trainer, pl_module)
            self._values.update({k: v for k, v in evaluated.items() if k not in self.shown})
        return dict(self._values)
