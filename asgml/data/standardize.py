"""Transforms of stored numbers, and the statistics they need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

from asgml.data.spec import Kind
from callbacks.errors import UserError

_CHUNK = 1 << 22  # elements converted to float64 in one go


class Stored(Protocol):
    """Rows of values as an array has them, in RAM or read when indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, (n, …)."""
        ...

    @property
    def ndim(self) -> int:
        """The number of axes."""
        ...

    def __getitem__(self, index: Any) -> Any:
        """Return some rows."""
        ...


class Standardize:
    """Turns stored rows into float32 of `shape`: (raw * unit - mean) / std.

    Args:
        shape: the shape of one sample.
        unit: the factor on stored values; 1/255 for 8-bit images.
        mean: the mean of raw * unit, shaped to broadcast over a batch.
        std: the standard deviation of raw * unit, shaped likewise.
    """

    def __init__(self, shape: tuple[int, ...], unit: float, mean: np.ndarray, std: np.ndarray):
        self.shape, self.unit = shape, unit
        self.mean, self.std = mean.astype(np.float32), std.astype(np.float32)

    def __call__(self, raw: np.ndarray, keys: np.ndarray, train: bool) -> torch.Tensor:
        x = raw.reshape(len(raw), *self.shape).astype(np.float32) * np.float32(self.unit)
        return torch.from_numpy((x - self.mean) / self.std)

    def fitted(self) -> dict[str, np.ndarray]:
        """Return what the training split has given it (see `asgml.data.preprocessing.Fitted`)."""
        return {"unit": np.array(self.unit, dtype=np.float64), "mean": self.mean, "std": self.std}

    def refitted(self, numbers: Mapping[str, np.ndarray], where: str) -> Standardize:
        """Return it with mean and standard deviation of another training split.

        Raises:
            UserError: 8-bit images for a training split of others, or the other way round.
        """
        if float(numbers["unit"]) != self.unit:
            eight_bit = "8-bit images, 0 to 255", "values that are not 8-bit images"
            found, expected = eight_bit if self.unit != 1 else eight_bit[::-1]
            raise UserError(where, found, f"{expected}, as the run was trained on", "save them as those of the run")
        return Standardize(self.shape, self.unit, numbers["mean"], numbers["std"])


def standardizing(
    x: Stored,
    shape: tuple[int, ...],
    kind: Kind,
    rows: np.ndarray,
    lengths: np.ndarray | None = None,
    unit: float = 1.0,
) -> tuple[Standardize, int]:
    """Return the transform to mean 0 and variance 1 over `rows`, and the number of features that are constant there.

    A constant feature becomes 0.

    Args:
        x: the stored values, (n, *shape).
        shape: the shape of one sample.
        kind: what a sample is.
        rows: the rows that count, one or more.
        lengths: the number of valid steps of each sequence, (n,): only these count. None stands for all steps.
        unit: the factor on stored values; 1/255 for 8-bit images.
    """
    mean, std = statistics(x, kind, rows, lengths)
    mean, std = mean * unit, std * unit
    constant = std <= np.maximum(1e-6 * np.abs(mean), 1e-30)
    return Standardize(shape, unit, mean, np.where(constant, 1.0, std)), int(constant.sum())


class Tokens:
    """Turns rows of token numbers, padded with -1, into int64."""

    def __call__(self, raw: np.ndarray, keys: np.ndarray, train: bool) -> torch.Tensor:
        return torch.from_numpy(raw.astype(np.int64))


def statistics(
    x: Stored, kind: Kind, rows: np.ndarray, lengths: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over `rows` in float64, shaped to broadcast over a batch.

    They are per feature for vectors (F,) and sequences (T, F), per channel for images (C, H, W) and frames
    (T, C, H, W). Two passes, because sums of squares cancel for features with a large mean.

    Args:
        x: the stored values, (n, …).
        kind: what a sample is.
        rows: the rows that count.
        lengths: the number of valid steps of each sequence, (n,): only these count. None stands for all steps.
    """
    channel = x.ndim - (3 if kind in ("image", "frames") else 1)
    axes = tuple(a for a in range(x.ndim) if a != channel)
    step = max(1, _CHUNK // int(np.prod(x.shape[1:])))
    chunks = [rows[i : i + step] for i in range(0, len(rows), step)]
    count = len(rows) * int(np.prod(x.shape[1:])) // x.shape[channel] if lengths is None else int(lengths[rows].sum())

    def total(values: np.ndarray, chunk: np.ndarray) -> Any:
        """Return the sum over the values that count, with `channel` alone left."""
        where: Any = True if lengths is None else (np.arange(x.shape[1]) < lengths[chunk][:, None])[:, :, None]
        return values.sum(axis=axes, keepdims=True, where=where)

    mean = sum(total(x[c].astype(np.float64), c) for c in chunks) / count
    squares = sum(total((x[c].astype(np.float64) - mean) ** 2, c) for c in chunks)
    return mean[0], np.sqrt(squares / count)[0]
