"""Stage: one idea inside an optimiser step, as a Lightning callback."""

from __future__ import annotations

from typing import Any

import lightning as L

from callbacks.errors import UserError
from callbacks.step.hooks import StepHooks
from callbacks.step.pipeline import StepPipeline


class Stage(StepHooks, L.Callback):
    """Puts one idea into an optimiser step; see `StepHooks` for what it may do.

    Stages are listed in a `StepPipeline`; a single one may also stand in `callbacks=[…]` by itself.
    """

    _solo: StepPipeline | None = None

    @property
    def state_key(self) -> str:
        return f"Stage:{self.name}"

    def state_dict(self) -> dict[str, Any]:
        return self._solo.state_dict() if self._solo else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._solo:
            self._solo.load_state_dict(state_dict)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(c, StepPipeline) for c in callbacks) or sum(isinstance(c, Stage) for c in callbacks) > 1:
            raise UserError(
                "Trainer(callbacks)",
                f"the stage '{self.name}' beside another stage or a StepPipeline",
                "one StepPipeline that lists all stages",
                f"write callbacks=[StepPipeline([…])] and list '{self.name}' there, so that the order of a step is "
                "declared once",
            )
        if self._solo is None:
            self._solo = StepPipeline([self], announce=False)

    def on_train_start(self, trainer, pl_module) -> None:
        if self._solo:
            self._solo.on_train_start(trainer, pl_module)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self._solo:
            self._solo.on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if self._solo:
            self._solo.on_before_optimizer_step(trainer, pl_module, optimizer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self._solo:
            self._solo.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if self._solo:
            self._solo.on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer, pl_module) -> None:
        if self._solo:
            self._solo.on_train_end(trainer, pl_module)

    def on_exception(self, trainer, pl_module, exception) -> None:
        if self._solo:
            self._solo.on_exception(trainer, pl_module, exception)


def find_pipeline(trainer: L.Trainer) -> StepPipeline | None:
    """Return the trainer's pipeline, also that of a stage that stands alone, or None where there is none."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StepPipeline):
            return callback
        if isinstance(callback, Stage) and callback._solo is not None:
            return callback._solo
    return None
