"""The best test accuracy of all epochs, as published protocols report it: selected on the test split."""

from __future__ import annotations

from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from asgml.data.datamodule import MultimodalData
from asgml.train.module import MultimodalModule
from asgml.train.predictions import Predictions
from callbacks.errors import UserError
from callbacks.step.modes import evaluating


class BestOnTest(L.Callback):
    """Evaluates the test split after every validation and keeps the highest accuracy, with its epoch.

    This is the number of the published protocol (docs/protocols.md): the highest of as many test accuracies as there
    are epochs, which overstates what a model selected without the test split reaches. It is for comparison with
    published numbers and with nothing else: no weights are kept by it, no choice reads it, and the result holds it
    under a name of its own, `published_best_on_test`, beside the last epoch and the best validation epoch.

        callbacks:
          published_best_on_test:
            _target_: asgml.train.BestOnTest

    `protocol=published_best_on_test` sets it. One more pass over the test split per validation; training is not
    disturbed.

    Limits: classes only, a data module of asgml, and validation at the ends of epochs for the usual meaning.

    Attributes:
        accuracy: the highest test accuracy so far, None before the first validation.
        epoch: the epoch, from 0, after which it was reached first.
        evaluations: the number of test accuracies of which it is the highest.
    """

    RESULT: ClassVar[str] = "published_best_on_test"

    def __init__(self) -> None:
        self.accuracy: float | None = None
        self.epoch: int | None = None
        self.evaluations = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, MultimodalModule) or pl_module.task.name != "classification":
            found, expected = "a task without classes", "classes, whose test accuracy is the published number"
            raise UserError("callbacks.published_best_on_test", found, expected, "leave protocol out")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        assert isinstance(pl_module, MultimodalModule)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, MultimodalData)
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            loader = data.survey_dataloader("test")
            batches = (pl_module.transfer_batch_to_device(batch, pl_module.device, 0) for batch in loader)
            predictions = Predictions.gather([pl_module.predict_batch(batch) for batch in batches])
        accuracy = pl_module.task.evaluate(predictions, pl_module.gamma)["accuracy"]
        self.evaluations += 1
        if self.accuracy is None or accuracy > self.accuracy:
            self.accuracy, self.epoch = accuracy, trainer.current_epoch

    def best(self) -> dict[str, float | int | None]:
        """Return accuracy, epoch and number of evaluations, for `result.json`."""
        return {"accuracy": self.accuracy, "epoch": self.epoch, "evaluations": self.evaluations}

    def state_dict(self) -> dict[str, Any]:
        return self.best()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.accuracy, self.epoch, self.evaluations = state["accuracy"], state["epoch"], state["evaluations"]
