"""PeakCheckpoint: `best.ckpt` by a smoothed metric, because one noisy batch chooses a lucky moment."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L

from callbacks.errors import UserError
from callbacks.ranges import Count, ShareBelowOne
from callbacks.run.checkpoint import StepCheckpoint


class PeakCheckpoint(StepCheckpoint):
    """Writes checkpoints as `StepCheckpoint`, with `best.ckpt` at the peak of the metric's moving average.

    The average is corrected for its bias:

        m_n = s m_{n-1} + (1 - s) x_n,    score_n = m_n / (1 - s^n).

    Example::

        callbacks:
          checkpoint: {_target_: callbacks.PeakCheckpoint, dirpath: checkpoints, monitor: val/f1, smoothing: 0.7}

    Limits: those of `StepCheckpoint`. The average lags: with a metric that rises to the end it picks the end.

    Args:
        smoothing: the weight s of the past; 0 takes the metric as it is.

    The other arguments are those of `StepCheckpoint`.

    Attributes:
        best_value: the metric as measured when `best.ckpt` was written, which a reloaded checkpoint must reproduce.
    """

    def __init__(
        self,
        dirpath: str,
        every_n_steps: Count | None = None,
        every_n_epochs: Count = 1,
        monitor: str | None = "val/f1",
        mode: Literal["max", "min"] = "max",
        smoothing: ShareBelowOne = 0.5,
        config_hash: str | None = None,
        config: dict[str, Any] | None = None,
        inputs: dict[str, dict[str, Any]] | None = None,
        tie_breaker: str | None = None,
    ):
        super().__init__(
            dirpath,
            every_n_steps,
            every_n_epochs,
            monitor,
            mode,
            config_hash,
            config,
            inputs=inputs,
            tie_breaker=tie_breaker,
        )
        if not 0 <= smoothing < 1:
            raise UserError("PeakCheckpoint.smoothing", str(smoothing), "from 0 to below 1", "set smoothing=0.5")
        self.smoothing = smoothing
        self.best_value: float | None = None
        self._average, self._seen = 0.0, 0
        self._value = 0.0

    def state_dict(self) -> dict[str, Any]:
        own = {"best_value": self.best_value, "average": self._average, "seen": self._seen}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.best_value = state["best_value"]
        self._average, self._seen = float(state["average"]), int(state["seen"])

    def score(self, trainer: L.Trainer) -> float:
        """Take the newest value into the average and return that."""
        self._value = super().score(trainer)
        self._seen += 1
        self._average = self.smoothing * self._average + (1 - self.smoothing) * self._value
        return self._average / (1 - self.smoothing**self._seen)

    def chosen(self) -> None:
        self.best_value = self._value
