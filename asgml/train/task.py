"""What a run predicts, a class or a number, and with it the loss, the prediction and the metric that selects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from asgml.data.spec import DataSpec
from asgml.methods.base import Step
from asgml.train.predictions import Predictions, evaluate
from asgml.train.regression import evaluate_regression
from callbacks.errors import UserError

#: The losses of a regression, each of residuals (B,).
RESIDUAL_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": torch.abs,
    "mse": torch.square,
    "smooth_l1": lambda r: F.smooth_l1_loss(r, torch.zeros_like(r), reduction="none"),
}


class Task(ABC):
    """What the outputs (B, C) of fusion and heads stand for.

    Attributes:
        name: classification or regression.
        score: the metric that tells how good a prediction is, also the one by which the best epoch is selected.
        mode: whether more (`max`) or less (`min`) of it is better.
    """

    name: ClassVar[Literal["classification", "regression"]]
    score: ClassVar[str]
    mode: ClassVar[Literal["max", "min"]]

    @property
    def selects_by(self) -> tuple[str, Literal["max", "min"]]:
        """The logged metric that selects the best epoch, and its mode."""
        return f"val/{self.score}", self.mode

    @abstractmethod
    def criterion(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the loss of every row, (B,)."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """Return the prediction (B, C) that outputs stand for."""

    @abstractmethod
    def scores(self, predicted: Tensor, y: Tensor) -> Tensor:
        """Return the score of every row, (B,), whose mean is the metric `score`; of predictions or outputs."""

    @abstractmethod
    def evaluate(self, predictions: Predictions, gamma: float) -> dict[str, float]:
        """Return the metrics of a split, with `L_fusion + gamma * sum_m L_m` as `loss`."""


class Classification(Task):
    """Predicts one of C classes: cross-entropy, softmax, accuracy.

    Args:
        classes: the number of classes.
    """

    name = "classification"
    score = "accuracy"
    mode = "max"

    def __init__(self, classes: int):
        self.classes = classes

    def criterion(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y, reduction="none")

    def predict(self, outputs: Tensor) -> Tensor:
        return torch.softmax(outputs, dim=1)

    def scores(self, predicted: Tensor, y: Tensor) -> Tensor:
        return predicted.argmax(1) == y

    def evaluate(self, predictions: Predictions, gamma: float) -> dict[str, float]:
        return evaluate(predictions, self.classes, gamma)


class Regression(Task):
    """Predicts one number, the output itself.

    Args:
        loss: `l1`, as usual on CMU-MOSI and CMU-MOSEI since MulT (Tsai et al., ACL 2019), `mse`, or `smooth_l1`.
        sentiment: whether y is a sentiment from -3 to 3, whose classes are evaluated too (see `evaluate_regression`).
    """

    name = "regression"
    score = "mae"
    mode = "min"

    def __init__(self, loss: str = "l1", sentiment: bool = False):
        self.loss, self.sentiment = loss, sentiment

    def criterion(self, outputs: Tensor, y: Tensor) -> Tensor:
        return RESIDUAL_LOSSES[self.loss](outputs[:, 0] - y.to(outputs.dtype))

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs

    def scores(self, predicted: Tensor, y: Tensor) -> Tensor:
        return (predicted[:, 0] - y).abs()

    def evaluate(self, predictions: Predictions, gamma: float) -> dict[str, float]:
        return evaluate_regression(predictions, RESIDUAL_LOSSES[self.loss], gamma, self.sentiment)


def score_sums(task: Task, step: Step, predicted: Tensor, modalities: Sequence[str], dtype: torch.dtype) -> Tensor:
    """Return sum and number of the scores of a step's rows, fused and then of every modality, (2 + 2 M,).

    Args:
        task: the task.
        step: the step.
        predicted: the fused prediction, (B, C).
        modalities: the M modalities, whose heads are scored on the rows that have them.
        dtype: the type in which the sums are taken.
    """

    def pair(outputs: Tensor, mask: Tensor | None) -> list[Tensor]:
        scores = task.scores(outputs, step.y).to(dtype)
        if mask is None:
            return [scores.sum(), scores.new_full((), len(scores))]
        return [torch.where(mask, scores, 0.0).sum(), mask.sum().to(dtype)]

    row = pair(predicted, None)
    for m in modalities:
        row += pair(step.unimodal[m], step.present[m])
    return torch.stack(row)


def task_of(spec: DataSpec, loss: str = "auto") -> Task:
    """Return the task of a data set under the configured loss.

    Args:
        spec: the data set.
        loss: `auto` is cross-entropy for classes and L1 for numbers.

    Raises:
        UserError: a loss that the task does not have.
    """
    known = ["cross_entropy"] if spec.task == "classification" else list(RESIDUAL_LOSSES)
    if loss not in ("auto", *known):
        found = f"{loss!r} in a {spec.task}"
        raise UserError("loss", found, f"auto or {', '.join(known)}", f"set loss={known[0]}")
    if spec.task == "classification":
        return Classification(len(spec.classes))
    low, high = spec.target_range or (0.0, 0.0)
    return Regression(known[0] if loss == "auto" else loss, sentiment=-3 <= low < 0 < high <= 3)
