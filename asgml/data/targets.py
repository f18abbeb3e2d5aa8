"""The array `y` of a feature file: class labels, or the values of a regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from asgml.data.npz import Npz
from asgml.data.spec import Task
from asgml.data.validate import nonfinite
from callbacks.errors import UserError

STRATA = 10  # of the values of a regression, when splits are cut
_PER_STRATUM = 20  # rows, or there are fewer strata


@dataclass(frozen=True)
class Targets:
    """What is predicted for every sample of a file.

    Attributes:
        y: the labels (n,) int64, or the values (n,) float32.
        task: classification or regression.
        classes: the class names; none in a regression.
        strata: what cut splits have in equal shares, (n,) int64: the labels, or up to ten ranges of the values that
            hold about equally many samples.
    """

    y: np.ndarray
    task: Task
    classes: list[str]
    strata: np.ndarray


def read_targets(file: Npz, task: Literal["auto"] | Task, classes: list[str] | None) -> Targets:
    """Read `y` as labels or as values.

    Args:
        file: the file, whose `y` has the shape (n,).
        task: `auto` takes integers as labels and fractions as values, and refuses floats that are all whole numbers.
        classes: the class names; None names the labels 0, 1, … themselves.

    Raises:
        UserError: targets that do not fit the task, or a task that does not fit the targets.
    """
    if task not in ("auto", "classification", "regression"):
        expected = "auto, classification or regression"
        raise UserError("data.task", repr(task), expected, "set data.task=auto")
    kind = file.headers["y"][1].kind
    if kind not in "iuf":
        found, expected = f"dtype {file.headers['y'][1]}", "integer labels, or floats to be regressed"
        raise file.error("y", found, expected, "number the labels 0, 1, … and save them with astype(int)")
    y = file.read("y")
    if task == "auto":
        task = _by_dtype(file, y)
    if task == "regression":
        if classes is not None:
            remedy = "set data.classes=null, or data.task=classification with integer labels"
            raise UserError("data.classes", str(classes), "null in a regression, which has no classes", remedy)
        values = _values(file, y)
        return Targets(values, task, [], _ranges(values))
    if kind == "f":
        found, remedy = f"dtype {y.dtype}", "set data.task=regression, or save whole numbers with astype(int)"
        raise file.error("y", f"{found} with data.task=classification", "integer class labels 0, 1, …", remedy)
    labels = y.astype(np.int64)
    return Targets(labels, task, _classes(file, labels, classes), labels)


def _by_dtype(file: Npz, y: np.ndarray) -> Task:
    if y.dtype.kind != "f":
        return "classification"
    finite = y[np.isfinite(y)]
    if not np.all(finite == np.round(finite)):
        return "regression"
    raise file.error(
        "y",
        f"dtype {y.dtype}, but whole numbers only: labels or values?",
        "integer class labels, or a word on the task",
        "set data.task=regression, or save the labels with astype(int)",
    )


def _values(file: Npz, y: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        values = y.astype(np.float32)
    found = nonfinite(values, np.arange(len(values)))
    if found:
        count, (row, *_), _ = found
        told = f"{y[row]} in row {row} ({count} such value(s))"
        raise file.error("y", told, "finite numbers within float32", "leave these rows out of every array")
    if values.min() == values.max():
        remedy = "save the values of y, or add samples that have another one"
        raise file.error("y", f"one value only ({values[0]:g})", "values that differ", remedy)
    return values


def _ranges(values: np.ndarray) -> np.ndarray:
    count = max(1, min(STRATA, len(values) // _PER_STRATUM))
    edges = np.quantile(values, np.arange(1, count) / count)
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def _classes(file: Npz, y: np.ndarray, classes: list[str] | None) -> list[str]:
    """Return the class names; refuse labels that have none."""
    renumber = "renumber with np.unique(y, return_inverse=True)[1]"
    if y.min() < 0:
        row = int(np.argmin(y >= 0))
        found = f"label {y[row]} in row {row} ({int((y < 0).sum())} negative label(s))"
        remedy = f"{renumber}, leave unlabelled samples out, or set data.task=regression"
        raise file.error("y", found, "labels from 0", remedy)
    if y.min() == y.max():
        remedy = "add samples of another class, or save the labels of all classes"
        raise file.error("y", f"one class only ({y[0]})", "two or more classes", remedy)
    if classes is None:
        if y.max() >= len(y):
            row = int(y.argmax())
            found = f"label {y[row]} in row {row}, with {len(y)} samples"
            raise file.error("y", found, "classes numbered 0, 1, …", renumber)
        return [str(i) for i in range(int(y.max()) + 1)]
    wrong = np.flatnonzero(y >= len(classes))
    if len(wrong):
        found = f"label {y[wrong[0]]} in row {wrong[0]} ({len(wrong)} label(s) outside the classes in all)"
        expected = f"0 to {len(classes) - 1}, as data.classes names {len(classes)} classes"
        remedy = f"list {int(y.max()) + 1} names in data.classes, or set data.classes=null"
        raise file.error("y", found, expected, remedy)
    return classes
