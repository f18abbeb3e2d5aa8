"""Alarms: what would otherwise go wrong in silence."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn


class NothingLearned(RuntimeError):
    """Reports that two consecutive evaluations gave the same validation loss to six decimals."""


class NothingLearnedAlarm(L.Callback):
    """Warns, or stops the run, when the validation loss is identical to six decimals in two consecutive evaluations.

    Example::

        callbacks:
          alarm: {_target_: callbacks.NothingLearnedAlarm, monitor: val/loss, action: warn}

    Limits: the metric must be in `trainer.callback_metrics`. A saturated model (loss exactly 0) triggers the alarm too;
    use `action: warn` there.

    Args:
        monitor: the name of the logged validation loss.
        action: what the alarm does, `warn` or `stop` (raises `NothingLearned`).
    """

    def __init__(self, monitor: str = "val/loss", action: Literal["warn", "stop"] = "warn"):
        self.monitor, self.action = monitor, action
        self.last: float | None = None
        self.alarms = 0

    @property
    def state_key(self) -> str:
        return "NothingLearnedAlarm"

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last, "alarms": self.alarms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last, self.alarms = state_dict["last"], state_dict["alarms"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if (
            trainer.state.fn != TrainerFn.FITTING
            or trainer.sanity_checking
            or self.monitor not in trainer.callback_metrics
        ):
            return
        value = float(trainer.callback_metrics[self.monitor])
        if self.last is not None and round(value, 6) == round(self.last, 6):
            self.alarms += 1
            message = (
                f"nothing is being learned: {self.monitor} is {value:.6f} in two consecutive evaluations. "
                "Look at delta/<group> (do the weights move?), at the gate's skips and at the learning rate."
            )
            if self.action == "stop":
                raise NothingLearned(message)
            rank_zero_warn(message)
        self.last = value
