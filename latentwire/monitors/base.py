"""What all monitors share: when they look, where numbers and records go, and how a resumed run goes on."""

from __future__ import annotations

from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.ranges import Count
from callbacks.run.history_logger import find_history
from callbacks.step.stage import find_pipeline
from latentwire.monitors import records
from latentwire.train.module import WireModule
from latentwire.train.validation import Scores


class Monitor(L.Callback):
    """Looks at every `every`-th validation of a training, the first one included; base of the monitors.

    It draws no random number and moves nothing: a run is the same bit by bit with it and without it. With several
    ranks, rank 0 looks at what all of them have validated.

    Attributes:
        kind: the kind of its records, and the beginning of its metrics' names.

    Args:
        every: the number of validations from one record to the next.
    """

    kind: ClassVar[str]

    def __init__(self, every: Count = 1):
        self.every = every
        self.seen = 0

    @property
    def state_key(self) -> str:
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = int(state_dict["seen"])

    def record(self, module: WireModule, scores: Scores) -> tuple[dict[str, float], records.Record]:
        """Return the metrics of a validation by name, and what its record holds."""
        raise NotImplementedError

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pipeline, history = find_pipeline(trainer), find_history(trainer)
        if history is not None:
            records.forget(history.run_dir, self.kind, pipeline.t if pipeline else trainer.global_step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        number, self.seen = self.seen, self.seen + 1
        history = find_history(trainer)
        if number % self.every or history is None:
            return
        assert isinstance(pl_module, WireModule)
        assert pl_module.validated is not None
        pipeline = find_pipeline(trainer)
        step, epoch = pipeline.t if pipeline else trainer.global_step, trainer.current_epoch
        metrics, found = self.record(pl_module, pl_module.validated)
        for logger in trainer.loggers:
            logger.log_metrics({**{f"{self.kind}/{k}": v for k, v in metrics.items()}, "epoch": epoch}, step=step)
        records.write(history.run_dir, self.kind, step, epoch, found)
