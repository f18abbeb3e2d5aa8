"""What a data source promises: modalities, classes, tables, transforms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch

Kind = Literal["vector", "sequence", "image", "frames", "tokens"]
Split = Literal["train", "val", "test"]
Task = Literal["classification", "regression"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# The number of axes of one sample, by kind: (F,), (T, F), (C, H, W), (T, C, H, W), (L,).
RANK: dict[str, int] = {"vector": 1, "sequence": 2, "image": 3, "frames": 4, "tokens": 1}


@dataclass(frozen=True)
class ModalitySpec:
    """One modality as the encoder sees it.

    Attributes:
        name: the modality's name.
        kind: what a sample is.
        shape: the shape of one sample after its transform: vector (F,), sequence (T, F), image (C, H, W) (a spectrogram
            is an image with C = 1), frames (T, C, H, W), tokens (L,) of integers padded with -1.
        padded: whether the sequences have lengths of their own, up to T; batches then say them.
        vocabulary: tokens are below this number, None where it is not known.
        source: what it is read from, in words for the user; "" where the data set's name says it.
        content: what the cells of a table hold (`asgml.data.csv_columns.Content`); "" where it is from no table.
        columns: the table's columns that it is read from, in the order of its features; () where it is from no table.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    padded: bool = False
    vocabulary: int | None = None
    source: str = ""
    content: str = ""
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSpec:
    """A data set as the model sees it.

    Attributes:
        modalities: the modalities by name, in the order in which encoders are built.
        classes: the class names; label `i` is `classes[i]`. None in a regression.
        dominant: the modality known to be learned first, None if unknown.
        notes: the facts worth reporting, e.g. unimodal ceilings and where the splits come from (JSON values only).
        task: whether y is a class or a number.
        target_range: the smallest and the largest value of y in a regression, None otherwise.
        warnings: what the source has found that deserves a warning, a line each.
    """

    modalities: dict[str, ModalitySpec]
    classes: list[str]
    dominant: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    task: Task = "classification"
    target_range: tuple[float, float] | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def outputs(self) -> int:
        """The width of the model's output: one logit per class, or the predicted value."""
        return len(self.classes) if self.task == "classification" else 1


class Transform(Protocol):
    """Turns stored rows into float32 tensors (int64 for tokens). A module-level class: workers receive it by pickling.

    Args:
        raw: the stored values, (b, …).
        keys: the augmentation seeds, (b,) uint64, each a hash of (seed, epoch, index): the only randomness allowed, so
            that a sample looks the same whatever batch or worker it falls into.
        train: whether to augment.
    """

    def __call__(self, raw: np.ndarray, keys: np.ndarray, train: bool) -> torch.Tensor: ...


@dataclass
class Table:
    """One split, in RAM or memory-mapped.

    Attributes:
        x: the stored values (n, …) per modality (uint8 frames, float32 features, …).
        present: whether each sample has the modality, (n,) bool per modality; other rows of `x` are never read as data.
        y: the labels, (n,) int64, or the values of a regression, (n,) float32.
        ids: the n samples' names, unique over all splits.
        transforms: the transform of each modality.
        lengths: by padded modality, the number of valid steps of each sample, (n,) int64; the steps behind are padding.
        row: the row of each sample in the file that the data set is, (n,) int64; None where it is not one file of rows.
        group: what each sample belongs to (its speaker, actor or video), (n,) integers or strings; None without groups.
        grouped_by: what a group is, in one word.
        remarks: what deserves a warning about these samples, a line each, beside what `DataSpec.warnings` says.
        unseen: whether these are known to be samples of the run's own test split.
    """

    x: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    y: np.ndarray
    ids: list[str]
    transforms: dict[str, Transform]
    lengths: dict[str, np.ndarray] = field(default_factory=dict)
    row: np.ndarray | None = None
    group: np.ndarray | None = None
    grouped_by: str = "group"
    remarks: list[str] = field(default_factory=list)
    unseen: bool = False

    def __len__(self) -> int:
        return len(self.y)


def subset(table: Table, rows: np.ndarray) -> Table:
    """Return the given rows of a table, in their order, copied into RAM."""
    return replace(
        table,
        x={m: np.ascontiguousarray(x[rows]) for m, x in table.x.items()},
        present={m: p[rows] for m, p in table.present.items()},
        y=table.y[rows],
        ids=[table.ids[i] for i in rows],
        row=None if table.row is None else table.row[rows],
        group=None if table.group is None else table.group[rows],
        lengths={m: n[rows] for m, n in table.lengths.items()},
    )


class Source(Protocol):
    """Where a data set comes from. Constructors take parameters only and read no file."""

    def spec(self) -> DataSpec:
        """Return what the model needs to know of the data set."""
        ...

    def tables(self) -> dict[Split, Table]:
        """Return the three splits.

        Raises:
            UserError: whatever is wrong with the files.
        """
        ...

    def prepare(self, workers: int = 1) -> None:
        """Decode once to shards under the prepared folder; do nothing where files are read as they are."""
        ...


def modality_names(source: Source) -> list[str]:
    """Return the modalities of a source, before it is prepared.

    A source whose `spec` reads the data may have a method `modality_names` that does not.

    Raises:
        UserError: the files that name the modalities are not there.
    """
    quick = getattr(source, "modality_names", None)
    return list(source.spec().modalities if quick is None else quick())
