"""Transforms of stored numbers, and the statistics they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from asgml.data.spec import Kind
from callbacks.errors import UserError

_CHUNK = 1 << 22  # elements converted to float64 in one go
STEP = 2.0**-24  # the rounding of float32, relative to a value
COARSE = 1e-3  # of a standard deviation: what rounding may lose
ROUNDED, EXACT = 1e-6, 1e-12  # of the mean: a standard deviation that is rounding, of float32 and of wider values


class Stored(Protocol):
    """Rows of values as an array has them, in RAM or read when indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, (n, …)."""
        ...

    @property
    def dtype(self) -> Any:
        """The NumPy type of the values."""
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
        wide: whether to compute in float64 and round at the end, for values that float32 cannot hold beside their mean.
    """

    def __init__(self, shape: tuple[int, ...], unit: float, mean: np.ndarray, std: np.ndarray, wide: bool = False):
        self.shape, self.unit, self.wide = shape, unit, wide
        self._dtype = np.dtype(np.float64 if wide else np.float32)
        self.mean, self.std = mean.astype(self._dtype), std.astype(self._dtype)

    @classmethod
    def of(cls, shape: tuple[int, ...], numbers: Mapping[str, np.ndarray]) -> Standardize:
        """Return the transform whose `fitted` returned these numbers, for samples of a shape."""
        mean, std = numbers["mean"], numbers["std"]
        return cls(shape, float(numbers["unit"]), mean, std, mean.dtype == np.float64)

    def __call__(self, raw: np.ndarray, keys: np.ndarray, train: bool) -> torch.Tensor:
        x = raw.reshape(len(raw), *self.shape).astype(self._dtype) * self._dtype.type(self.unit)
        return torch.from_numpy(((x - self.mean) / self.std).astype(np.float32, copy=False))

    def stored(self, x: np.ndarray) -> np.ndarray:
        """Return values as they are kept for this transform: floats in float32, but where that would lose them."""
        return x.astype(np.float32) if x.dtype.kind == "f" and x.itemsize > 4 and not self.wide else x

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
        return Standardize.of(self.shape, numbers)


@dataclass(frozen=True)
class Spread:
    """Counts the features of a modality that do not vary as numbers should.

    Attributes:
        features: how many there are.
        constant: those that are constant in training: they become 0.
        coarse: those whose variation the rounding of their own type is not small beside.
    """

    features: int
    constant: int
    coarse: int

    def told(self) -> list[str]:
        """Return a line for each count that is not 0."""
        lines = []
        if self.constant:
            lines.append(f"{self.constant} of {self.features} features are constant: always 0")
        if self.coarse:
            lost = "vary by less than float32 can tell beside their mean: subtract an offset, or save them as float64"
            lines.append(f"{self.coarse} of {self.features} features {lost}")
        return lines


def standardizing(
    x: Stored,
    shape: tuple[int, ...],
    kind: Kind,
    rows: np.ndarray,
    lengths: np.ndarray | None = None,
    unit: float = 1.0,
) -> tuple[Standardize, Spread]:
    """Return the transform to mean 0 and variance 1 over `rows`, and how the features vary there.

    A constant feature becomes 0. Values of more than 32 bits (timestamps, coordinates with a large offset) are
    standardised before they are rounded to float32, where the rounding would be more than a thousandth of the standard
    deviation of a feature.

    Args:
        x: the stored values, (n, *shape).
        shape: the shape of one sample.
        kind: what a sample is.
        rows: the rows that count, one or more.
        lengths: the number of valid steps of each sequence, (n,): only these count. None stands for all steps.
        unit: the factor on stored values; 1/255 for 8-bit images.
    """
    exact = x.dtype.kind in "iuf" and x.dtype.itemsize >= 4 and x.dtype != np.float32
    mean, std, constant, coarse = _moments(x, kind, rows, lengths, unit, EXACT if exact else ROUNDED)
    wide = exact and bool(coarse.any())
    if exact and not wide and x.dtype.kind == "f":  # as they are kept
        narrow = np.asarray(x[:]).astype(np.float32)
        mean, std, constant, coarse = _moments(narrow, kind, rows, lengths, unit, ROUNDED)
    spread = Spread(constant.size, int(constant.sum()), 0 if wide else int(coarse.sum()))
    return Standardize(shape, unit, mean, np.where(constant, 1.0, std), wide), spread


def _moments(
    x: Stored, kind: Kind, rows: np.ndarray, lengths: np.ndarray | None, unit: float, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, standard deviation, and which features are constant and too coarse for float32."""
    mean, std = (moment * unit for moment in statistics(x, kind, rows, lengths))
    constant = std <= np.maximum(least * np.abs(mean), 1e-30)
    return mean, std, constant, ~constant & (np.abs(mean) * STEP > COARSE * std)


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
