"""What a source of surfaces gives: the samples of training, of selection and of the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from asgml.feedback.data.protocol import divide, few_shot
from asgml.feedback.data.sample import Sample
from callbacks.errors import UserError


@dataclass(frozen=True)
class Splits:
    """Holds who is trained on, who selects the weights, and who is tested.

    Attributes:
        train: the samples of training.
        val: the samples that select the weights, of classes that are trained on.
        test: the samples of the test.
    """

    train: list[Sample]
    val: list[Sample]
    test: list[Sample]

    @property
    def classes(self) -> list[str]:
        """The names of all classes, those of training first."""
        return list(dict.fromkeys(s.class_name for s in (*self.train, *self.val, *self.test)))


@runtime_checkable
class SurfaceSource(Protocol):
    """Describes what `data` builds."""

    def splits(self, seed: int) -> Splits:
        """Return the three splits; what is drawn follows from the seed."""
        ...

    def labelled(self) -> tuple[list[Sample], list[str]]:
        """Return everything that a finished run can be scored on, and a line for each thing to know about that.

        Nothing is divided: it is the labelled part of the classes to test (`data.test_classes`), of all without these.

        Raises:
            UserError: no such class, or no picture.
        """
        ...


def counts(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """Return the number of pictures, normal and damaged, by class."""
    found: dict[str, dict[str, int]] = {}
    for sample in samples:
        row = found.setdefault(sample.class_name, {"normal": 0, "damaged": 0})
        row["damaged" if sample.anomalous else "normal"] += 1
    return found


def finish(rest: list[Sample], test: list[Sample], shots: int | None, val_share: float, seed: int) -> Splits:
    """Return the splits, with a part of the samples of training held out to select the weights.

    Args:
        rest: the samples that are not tested.
        test: those that are.
        shots: the number of samples per class and label that are trained on; None is all.
        val_share: the share of `rest` that selects the weights.
        seed: of the draws.

    Raises:
        UserError: a split without a sample, or none damaged to select the weights by or to test.
    """
    train, val = divide(rest, val_share, seed)
    train = train if shots is None else few_shot(train, shots, seed)
    for name, found in (("train", train), ("val", val), ("test", test)):
        if not found:
            raise UserError(f"data: {name}", "no picture", "at least one", "give more pictures, or other classes")
    for name, found in (("val", val), ("test", test)):
        if not any(s.anomalous for s in found):
            expected = "at least one, which the metrics are of"
            remedy = "give a kind of defect 3 pictures, or put several kinds into one folder"
            raise UserError(f"data: {name}", f"no damaged one among {len(found)} pictures", expected, remedy)
    return Splits(train, val, test)
