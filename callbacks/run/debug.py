"""Debugging checks that end with a verdict: can it overfit a few samples, and does every group move?"""

from __future__ import annotations

from typing import Any

import lightning as L

from callbacks.errors import UserError
from callbacks.ranges import Positive
from callbacks.stages.diagnostics import GradientNorms
from callbacks.step.console import rank_zero_print
from callbacks.step.stage import find_pipeline


class DebugFailure(UserError):
    """Reports a debugging check that did not pass, and the group or number at fault."""


class OverfitCheck(L.Callback):
    """Refuses, at the end of a fit, a training loss that has not fallen to about 0 and groups that have not moved.

    The fit stops after the epoch in which both are reached, `min_epochs` and `min_steps` of the trainer permitting.

    Example::

        callbacks:
          overfit: {_target_: callbacks.OverfitCheck, loss_below: 0.05, monitor: train/loss}

    Limits: it needs a `StepPipeline` with `GradientNorms` (‖Δparam‖ per group), and a logged training loss.

    Args:
        loss_below: the loss from which on a run does not count as overfitted; null checks movement only
            (`debug=one_step`).
        monitor: the name of the training loss in `trainer.callback_metrics`.
        idle: the groups that may stand still (frozen on purpose).

    Attributes:
        verdict: what a check that has passed found, in one line that begins with PASS; None before.
    """

    def __init__(self, loss_below: Positive | None = 0.05, monitor: str = "train/loss", idle: list[str] | None = None):
        self.loss_below, self.monitor, self.idle = loss_below, monitor, set(idle or [])
        self.verdict: str | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pipeline = find_pipeline(trainer)
        diagnostics: Any = pipeline.stage("diagnostics") if pipeline else None
        if self.loss_below is None or pipeline is None or pipeline.ctx is None:
            return
        if not isinstance(diagnostics, GradientNorms):
            return  # the end of the fit refuses that
        moved = all(diagnostics.moved.get(g) for g in pipeline.ctx.groups if g not in self.idle)
        reached = moved and float(trainer.callback_metrics[self.monitor]) < self.loss_below
        if trainer.strategy.reduce_boolean_decision(reached, all=True):
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pipeline = find_pipeline(trainer)
        diagnostics: Any = pipeline.stage("diagnostics") if pipeline else None
        if pipeline is None or pipeline.ctx is None or not isinstance(diagnostics, GradientNorms):
            raise DebugFailure(
                "OverfitCheck",
                "no StepPipeline with GradientNorms",
                "‖Δparam‖ per group",
                "add callbacks.GradientNorms to the pipeline's stages",
            )
        held = pipeline.ctx.plan.idle if pipeline.t <= 1 else set()  # a rhythm may hold a group back in a single step
        moved = {g: diagnostics.moved.get(g, 0.0) for g in pipeline.ctx.groups}
        dead = [g for g, delta in moved.items() if delta == 0.0 and g not in self.idle | held]
        table = ", ".join(f"{g} {delta:.3g}" + (" (held back)" if g in held else "") for g, delta in moved.items())
        rank_zero_print(f"debug: largest ‖Δparam‖ per group: {table}; steps {pipeline.t}, skipped {pipeline.vetoed}")
        if dead:
            raise DebugFailure(
                f"debug: FAIL: parameter groups {', '.join(dead)}",
                "largest ‖Δparam‖ is 0: dead",
                "every group moves",
                "look at grad_norm/<group> (0: no loss reaches it), timeline.csv (always held back?) and group_lr;"
                " list a group that is frozen on purpose in `idle` of OverfitCheck",
            )
        if self.loss_below is None:
            self._passed("no group is dead")
            return
        loss = float(trainer.callback_metrics[self.monitor])
        rank_zero_print(f"debug: {self.monitor} {loss:.4g} (must be below {self.loss_below})")
        if not loss < self.loss_below:
            raise DebugFailure(
                f"debug: FAIL: {self.monitor}",
                f"{loss:.4g} after {pipeline.t} steps on a few samples, though every group moves ({table})",
                f"below {self.loss_below}: a model that learns at all can learn a few samples by heart",
                "raise trainer.max_epochs or change optimizer.lr; if neither helps, look at the labels",
            )
        after = f"after {pipeline.t} steps"
        self._passed(f"{self.monitor} {loss:.4g} is below {self.loss_below} {after}, and no group is dead")

    def _passed(self, found: str) -> None:
        self.verdict = f"PASS: {found}"
        rank_zero_print(f"debug: {self.verdict}")
