"""Learning rates that move only after committed steps (specification A5.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from callbacks.errors import UserError
from callbacks.ranges import Count, PositiveShare, Steps
from callbacks.step.context import StepContext
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage

WARMUP_FLOOR = 0.1


def lr_factor(
    t: int,
    steps_per_epoch: int,
    epochs: int,
    kind: Literal["constant", "step", "cosine"],
    step_epochs: int = 70,
    step_gamma: float = 0.1,
    warmup_steps: int = 0,
) -> float:
    """Return the factor on every group's base learning rate at committed step t.

    `step` multiplies by `step_gamma` every `step_epochs` epochs (torch's StepLR, in committed steps); `cosine` falls to
    0 over `epochs`. Warm-up rises linearly over `warmup_steps` from a floor of 10 % (with 1 % an overfit test looks
    dead).
    """
    epoch = t // max(1, steps_per_epoch)
    if kind == "step":
        factor = step_gamma ** (epoch // step_epochs)
    elif kind == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, t / max(1, steps_per_epoch * epochs))))
    else:
        factor = 1.0
    if t < warmup_steps:
        factor *= max(WARMUP_FLOOR, (t + 1) / warmup_steps)
    return factor


class LRSchedule:
    """Describes a learning-rate schedule; called with an optimiser, it returns the `LambdaLR` of that schedule.

    Example::

        lr_schedule: {_target_: callbacks.LRSchedule, kind: step, step_epochs: 70, step_gamma: 0.1, warmup_steps: 100}

    Limits: one scheduler step is one committed step (see `LRStep`), and all groups share the factor.

    Args:
        kind: the form of the schedule: `constant`, `step` or `cosine`.
        step_epochs: the number of epochs between two reductions by `step`.
        step_gamma: the factor of each reduction by `step`.
        warmup_steps: the number of committed steps over which the rate rises linearly from 10 %.

    Raises:
        UserError: an unknown `kind`, `step_epochs` below 1 or `warmup_steps` below 0.
    """

    def __init__(
        self,
        kind: Literal["constant", "step", "cosine"] = "constant",
        step_epochs: Count = 70,
        step_gamma: PositiveShare = 0.1,
        warmup_steps: Steps = 0,
    ):
        if kind not in ("constant", "step", "cosine"):
            remedy = "set lr_schedule=constant, lr_schedule=step or lr_schedule=cosine"
            raise UserError("lr_schedule.kind", kind, "constant, step or cosine", remedy)
        if step_epochs < 1:
            raise UserError("lr_schedule.step_epochs", str(step_epochs), "1 or more", "set lr_schedule.step_epochs=70")
        if warmup_steps < 0:
            remedy = "set lr_schedule.warmup_steps=0"
            raise UserError("lr_schedule.warmup_steps", str(warmup_steps), "0 or more", remedy)
        self.kind, self.step_epochs, self.step_gamma = kind, step_epochs, step_gamma
        self.warmup_steps = warmup_steps

    def factor(self, steps_per_epoch: int, epochs: int) -> Callable[[int], float]:
        """Return the factor on the base learning rate as a function of the committed step."""
        return lambda t: lr_factor(
            t, steps_per_epoch, epochs, self.kind, self.step_epochs, self.step_gamma, self.warmup_steps
        )

    def __call__(self, optimizer: Optimizer, steps_per_epoch: int, epochs: int) -> LambdaLR:
        return LambdaLR(optimizer, self.factor(steps_per_epoch, epochs))


class LRStep(Stage):
    """Steps the schedulers that `configure_optimizers` returned, after committed steps only.

    Lightning does not step schedulers under manual optimisation (it does save their state). Schedulers with
    `interval: step` move at every `frequency`-th commit, those with `interval: epoch` at the end of every
    `frequency`-th epoch, unless no step was committed in it.

    Example::

        callbacks:
          pipeline: {_target_: callbacks.StepPipeline, stages: [{_target_: callbacks.LRStep}]}

    Limits: `ReduceLROnPlateau` needs a metric and is refused; step it in the module. Automatic optimisation with a
    scheduler is refused: Lightning would step it a second time.
    """

    name = "lr"
    phase = Phase.COMMIT

    def __init__(self) -> None:
        self._committed = 0

    def prepare(self, ctx: StepContext) -> None:
        if ctx.module.automatic_optimization and ctx.trainer.lr_scheduler_configs:
            raise UserError(
                "LRStep",
                "a module with automatic optimisation",
                "manual optimisation",
                "take LRStep out of the callbacks (Lightning steps the schedulers itself there, after vetoed steps "
                "too), or set self.automatic_optimization = False in the module",
            )
        for config in ctx.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):  # the config's flag is not set here
                raise UserError(
                    "configure_optimizers()",
                    "ReduceLROnPlateau",
                    "a scheduler of steps or epochs",
                    "return the optimiser alone, and call scheduler.step(metric) in on_validation_epoch_end()",
                )

    def on_commit(self, ctx: StepContext) -> None:
        self._committed += 1
        for config in ctx.trainer.lr_scheduler_configs:
            if config.interval == "step" and (ctx.t + 1) % config.frequency == 0:
                config.scheduler.step()  # type: ignore[call-arg]

    def end_epoch(self, ctx: StepContext) -> None:
        for config in ctx.trainer.lr_scheduler_configs:
            if (
                config.interval == "epoch"
                and self._committed
                and (ctx.trainer.current_epoch + 1) % config.frequency == 0
            ):
                config.scheduler.step()  # type: ignore[call-arg]
        self._committed = 0

    def state(self) -> dict[str, int]:
        return {"committed": self._committed}

    def load_state(self, state: dict[str, int]) -> None:
        self._committed = state["committed"]
