"""Lightning's metrics as rows of `history.csv`."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from callbacks.run.history import History


class HistoryLogger(Logger):
    """Write whatever is logged to `<run_dir>/history.csv` in long format (step, epoch, name, value).

    `step` is the logged metric `t` where there is one (committed optimiser steps), otherwise the step that Lightning
    passes (batches before this one). `history` also takes events and the timeline; use this one `History` for all rows
    of the run, because `StepCheckpoint` saves its position in the files, which makes a resumed run's tables identical
    to those of an uninterrupted run.

    Example::

        logger:
          history: {_target_: callbacks.HistoryLogger, run_dir: runs/cremad/0a1b2c3d4e5f}

    Limits: rank 0 writes. Without `StepCheckpoint`, rows of a killed run stay in the file: call
    `history.truncate(step)`. Hyper-parameters are not written; the run directory has the resolved config.

    Args:
        run_dir: the run's directory.
    """

    def __init__(self, run_dir: str):
        super().__init__()
        self._run_dir = run_dir
        self._history: History | None = None
        self._epoch = 0

    @property
    def history(self) -> History:
        """The run's tables, opened at the first use."""
        if self._history is None:
            self._history = History(self._run_dir)
        return self._history

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return self._run_dir

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write one row per metric; `t` and `epoch` give the rows their place and are not rows themselves."""
        for row in self.rows(metrics, step):
            self.history.scalar(*row)

    def rows(self, metrics: dict[str, float], step: int | None) -> list[tuple[int, int, str, float]]:
        """Return the rows (step, epoch, name, value) of a set of metrics."""
        self._epoch = int(metrics.get("epoch", self._epoch))
        at = int(metrics["t"]) if "t" in metrics else int(step or 0)
        return [(at, self._epoch, name, float(value)) for name, value in metrics.items() if name not in ("t", "epoch")]

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run directory holds the resolved config."""

    def save(self) -> None:
        """Do nothing: Lightning calls this after every row; `History` flushes by itself."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._history is not None:
            self._history.close()

    def state_dict(self, pending: dict[str, float], step: int) -> dict[str, Any]:
        """Return the position in the files, and the rows of this step that are not in them yet."""
        return {"files": self.history.state_dict(), "pending": [list(row) for row in self.rows(pending, step)]}

    @rank_zero_only
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the files back to the checkpoint and write the rows that were pending there."""
        self.history.load_state_dict(state["files"])
        for step, epoch, name, value in state["pending"]:
            self.history.scalar(step, epoch, name, value)


def find_history(trainer: L.Trainer) -> History | None:
    """Return the `History` of the trainer's `HistoryLogger`; None without one, and on other ranks than 0."""
    if not trainer.is_global_zero:
        return None
    return next((logger.history for logger in trainer.loggers if isinstance(logger, HistoryLogger)), None)
