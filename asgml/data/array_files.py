"""Vectors (F,) and sequences (T, F), one .npy file per sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asgml.data.media import MediaError
from asgml.data.npz import DAMAGED, read_header

Header = tuple[tuple[int, ...], np.dtype]


@dataclass(frozen=True)
class ArrayFiles:
    """Files of arrays that go into one array.

    Attributes:
        shape: the shape of one sample: (F,), or (T, F) with T steps in the longest sequence.
        lengths: the number of steps of each sequence, by path; {} of vectors.
        whose: who else has this shape, in words.
    """

    shape: tuple[int, ...]
    lengths: dict[Path, int]
    whose: str = "most files have"

    @property
    def padded(self) -> bool:
        """Whether the sequences differ in length."""
        return len(set(self.lengths.values())) > 1

    def decode(self, path: Path) -> np.ndarray:
        """Return one file as float32 of `shape`, zeros behind a shorter sequence.

        Raises:
            MediaError: a file that cannot be used.
        """
        try:
            with path.open("rb") as file:
                read_header(file, path.stat().st_size)
            x = np.load(path, allow_pickle=False)
        except FileNotFoundError as error:
            raise MediaError(path, "no such file") from error
        except DAMAGED as error:
            raise MediaError(path, f"not a readable .npy file: {error}") from error
        if not isinstance(x, np.ndarray) or x.dtype.kind not in "biuf":
            raise MediaError(path, "no array of numbers")
        if x.ndim != len(self.shape) or x.shape[-1] != self.shape[-1] or 0 in x.shape or x.shape[0] > self.shape[0]:
            most = f"({self.shape[-1]},)" if len(self.shape) == 1 else f"(steps, {self.shape[-1]})"
            raise MediaError(path, f"shape {x.shape}, where {self.whose} {most}")
        with np.errstate(over="ignore", invalid="ignore"):
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise MediaError(path, "NaN, infinity or beyond float32")
        out = np.zeros(self.shape, dtype=np.float32)
        out[: len(x)] = x
        return out


def array_files(paths: Iterable[Path]) -> ArrayFiles | None:
    """Return what most of the files have in common, read off their headers; None where no header can be read.

    The number of axes and the number of features decide; 1 axis are vectors, 2 are sequences.
    """
    shapes = array_shapes(paths)
    if not shapes:
        return None
    (axes, features), _ = Counter((len(s), s[-1]) for s in shapes.values()).most_common(1)[0]
    alike = {path: s for path, s in shapes.items() if (len(s), s[-1]) == (axes, features)}
    steps = max(s[0] for s in alike.values())
    shape = (features,) if axes == 1 else (steps, *next(iter(alike.values()))[1:])
    return ArrayFiles(shape, {path: s[0] for path, s in alike.items()} if axes == 2 else {})


def array_shapes(paths: Iterable[Path]) -> dict[Path, tuple[int, ...]]:
    """Return the shapes of those files that are arrays of numbers with something in them, read off their headers."""
    headers = {path: _header_of(path) for path in paths}
    return {
        path: h[0] for path, h in headers.items() if h is not None and h[1].kind in "biuf" and h[0] and 0 not in h[0]
    }


def _header_of(path: Path) -> Header | None:
    try:
        with path.open("rb") as file:
            return read_header(file, path.stat().st_size)
    except DAMAGED:
        return None  # told when it is decoded
