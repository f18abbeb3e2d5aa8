"""Debugging checks that end with a verdict: can it overfit a few samples, and does every group move?"""

from __future__ import annotations

from typing import Any

import lightning as L

from callbacks.diagnostics import GradientNorms
from callbacks.pipeline import find_pipeline
from callbacks.stage import rank_zero_print


class DebugFailure(RuntimeError):
    """A debugging check did not pass; the message says which group or number is at fault."""


class OverfitCheck(L.Callback):
    """At the end of a fit: the training loss has fallen to about 0 and every parameter group has moved.

    Example::

        callbacks:
          overfit: {_target_: callbacks.debug.OverfitCheck, loss_below: 0.05, monitor: train/loss}

    Limits: needs a `StepPipeline` with `GradientNorms` (‖Δparam‖ per group), and a logged training loss.

    Args:
        loss_below: largest loss that counts as overfitted; null checks movement only (`debug=one_step`).
        monitor: name of the training loss in `trainer.callback_metrics`.
        idle: groups that may stand still (frozen on purpose).
    """

    def __init__(
        self, loss_below: float | None = 0.05, monitor: str = "train/loss", idle: list[str] | None = None
    ):
        self.loss_below, self.monitor, self.idle = loss_below, monitor, set(idle or [])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pipeline = find_pipeline(trainer)
        diagnostics: Any = pipeline.stage("diagnostics") if pipeline else None
        if pipeline is None or not isinstance(diagnostics, GradientNorms):
            raise DebugFailure("OverfitCheck needs a StepPipeline with GradientNorms")
        assert pipeline.ctx is not None
        moved = {g: diagnostics.moved.get(g, 0.0) for g in pipeline.ctx.groups}
        dead = [g for g, delta in moved.items() if delta == 0.0 and g not in self.idle]
        table = ", ".join(f"{g} {delta:.3g}" for g, delta in moved.items())
        rank_zero_print(
            f"debug: largest ‖Δparam‖ per group: {table}; committed steps {pipeline.t}, skipped {pipeline.vetoed}"
        )
        if dead:
            raise DebugFailure(
                f"dead parameter groups: {', '.join(dead)} (largest ‖Δparam‖ is 0). No gradient reaches them, "
                "they are held back in every "
                "step, or their learning rate is 0."
            )
        if self.loss_below is None:
            return
        loss = float(trainer.callback_metrics[self.monitor])
        rank_zero_print(f"debug: {self.monitor} {loss:.4g} (must be below {self.loss_below})")
        if not loss < self.loss_below:
            raise DebugFailure(
                f"{self.monitor} is {loss:.4g} after {pipeline.t} steps on a few samples, expected below "
                f"{self.loss_below}: every group "
                f"moves ({table}), so look at the learning rate, the labels and the number of steps."
            )
