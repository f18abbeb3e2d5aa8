"""Predicting with network and methods as they stand, in training's evaluations and with finished weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning as L
import torch
from torch import Tensor

from asgml.data.dataset import Batch, to_device
from asgml.methods.base import Method, Step, uses
from asgml.model.net import MultimodalNet
from asgml.train.forward import Encoded, Forward
from asgml.train.method_support import install_modules
from asgml.train.predictions import Predictions
from asgml.train.task import Task


def active(methods: Sequence[Method], modalities: Sequence[str]) -> list[str]:
    """Return the modalities that take part under these methods."""
    left = list(modalities)
    for method in methods:
        left = [m for m in method.active(list(modalities)) if m in left]
    return left


def fusing(methods: Sequence[Method]) -> list[Method]:
    """Return the methods with a prediction of their own, the last one first: the first that answers is taken."""
    return [m for m in reversed(methods) if uses(m, "fuse_at_test")]


def fused_prediction(step: Step, own: Sequence[Method], task: Task) -> Tensor:
    """Return the prediction (B, C): that of the first of `own` that has one, else that of the fused logits."""
    for method in own:
        replaced = method.fuse_at_test(step)
        if replaced is not None:
            return replaced
    return task.predict(step.logits)


def predictions_of(step: Step, index: Tensor, own: Sequence[Method], task: Task) -> Predictions:
    """Return the predictions of a batch.

    Args:
        step: the batch.
        index: its rows of the table, (B,).
        own: as for `fused_prediction`.
        task: the task.
    """
    unimodal = {m: task.predict(z) for m, z in step.unimodal.items()}
    return Predictions.of(index, step.y, fused_prediction(step, own, task), unimodal, step.present)


class Finished(L.LightningModule):
    """Predicts with finished weights: the network and its methods, without optimiser, rhythm and teachers.

    Its `state_dict` has the names of `MultimodalModule`'s.

    Args:
        net: the network.
        methods: the methods of the run, by name, in order.
        task: what is predicted.
        seed: the seed of the run.
        epochs: the length of the training, which is over.

    Attributes:
        active: the modalities that take part.
        fusing: the methods with a prediction of their own, the first that answers is taken.
        collected: the predictions of the newest `Trainer.test`, by batch.
    """

    def __init__(self, net: MultimodalNet, methods: Mapping[str, Method], task: Task, seed: int, epochs: int):
        super().__init__()
        self.net, self.methods, self.task, self.epochs = net, dict(methods), task, epochs
        for name, method in self.methods.items():
            method.prepare(name, net.modalities, net.classes, seed)
        self.extensions = install_modules(net, self.methods, seed)
        everyone = list(self.methods.values())
        self.collected: list[Predictions] = []
        self.fusing = fusing(everyone)
        self.active = active(everyone, net.modalities)
        # of these, training alone reads `trains_heads`, `may_miss` and the teachers
        self._forward = Forward(net, everyone, self.active, True, True, {}, task.criterion)

    def step_of(self, batch: Batch, encoded: Encoded | None = None) -> Step:
        """Run the forward pass of a batch, or from its features on (see `Forward`), as in evaluation."""
        return self._forward(
            batch, plan=None, measure=False, t=0, epoch=self.epochs, epochs=self.epochs, rank=0, encoded=encoded
        )

    def prediction(self, step: Step) -> Tensor:
        """Return the prediction (B, C) as the run evaluates it."""
        return fused_prediction(step, self.fusing, self.task)

    def on_test_epoch_start(self) -> None:
        self.collected = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        # not `predict_step`: Lightning's predict loop builds batch samplers anew
        self.collected.append(predictions_of(self.step_of(batch), batch["index"], self.fusing, self.task))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return to_device(batch, device, wide=next(self.net.parameters()).dtype == torch.float64)
