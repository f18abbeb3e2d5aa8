"""What the default encoders are judged on: real data of every kind, standardised as in a run, without augmentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asgml.data.avdigits import AVDigits, load_images
from asgml.data.features import Features
from asgml.data.spec import SPLITS, Kind, Split, Table
from asgml.data.standardize import Standardize, statistics

Part = tuple[Tensor, Tensor]  # inputs (n, *shape) and labels (n,)


@dataclass(frozen=True)
class Task:
    """One modality of one data set.

    Attributes:
        name: what it is called in the table.
        kind: the kind of the modality.
        parts: the inputs (n, *shape) and labels (n,) of each split.
    """

    name: str
    kind: Kind
    parts: dict[Split, Part]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.parts["train"][0].shape[1:])

    @property
    def classes(self) -> int:
        return 1 + max(int(y.max()) for _, y in self.parts.values())


def _loaded(tables: dict[Split, Table], modality: str) -> dict[Split, Part]:
    """Return what a run's loader delivers, all rows of a split at once and without augmentation."""
    return {
        s: (t.transforms[modality](t.x[modality], np.zeros(len(t), dtype=np.uint64), False), torch.from_numpy(t.y))
        for s, t in tables.items()
    }


def _standardised(x: np.ndarray, y: np.ndarray, kind: Kind, rows: dict[Split, np.ndarray]) -> dict[Split, Part]:
    """Standardise as `Features` does: with the statistics of the training rows."""
    mean, std = statistics(x, kind, rows["train"])
    transform = Standardize(x.shape[1:], 1.0, mean, np.where(std > 0, std, 1.0))
    keys = np.zeros(len(x), dtype=np.uint64)
    return {s: (transform(x[r], keys[r], False), torch.from_numpy(y[r])) for s, r in rows.items()}


def _grid(root: Path, modality: str, kind: Kind) -> dict[Split, Part]:
    parts = _loaded(Features(str(root / "grid_digit" / "grid_digit.npz")).tables(), modality)
    if kind == "sequence":  # a frame as one vector
        return {s: (x.flatten(2), y) for s, (x, y) in parts.items()}
    return parts


def _grid_means(root: Path) -> dict[Split, Part]:
    """Return the mean and the standard deviation over time of each mel band: 80 numbers, as audio is often stored."""
    parts = _grid(root, "audio", "sequence")
    x = {s: torch.cat([x.mean(1), x.std(1)], 1).numpy() for s, (x, _) in parts.items()}
    cuts = np.cumsum([0, *(len(x[s]) for s in SPLITS)])
    rows = {s: np.arange(a, b) for s, a, b in zip(SPLITS, cuts, cuts[1:])}
    y = torch.cat([parts[s][1] for s in SPLITS]).numpy()
    return _standardised(np.concatenate([x[s] for s in SPLITS]), y, "vector", rows)


def _fsdd(root: Path, split: str, kind: Kind) -> dict[Split, Part]:
    parts = _loaded(AVDigits(str(root), split=split, augment=False).tables(), "audio")  # type: ignore[arg-type]
    if kind == "sequence":  # (1, mels, time) as (time, mels)
        return {s: (x[:, 0].transpose(1, 2).contiguous(), y) for s, (x, y) in parts.items()}
    return parts


def _mnist(root: Path, features: Callable[[np.ndarray], np.ndarray] | None) -> dict[Split, Part]:
    """All 10 000 images, cut by index 4 : 1 : 1, as in `AVDigits`."""
    images, y = load_images(root)
    cuts = np.cumsum([0, *(len(y) * share // 6 for share in (4, 1))])
    rows = {s: np.arange(a, b) for s, a, b in zip(SPLITS, cuts, [*cuts[1:], len(y)])}
    if features is None:
        return _standardised(images[:, None].astype(np.float32), y, "image", rows)
    return _standardised(features(images), y, "vector", rows)


def handwriting_features(images: np.ndarray) -> np.ndarray:
    """Return (n, 181) features of grey images (n, 28, 28), of the families of UCI's "Multiple Features" digits.

    49 means of 4×4 windows, 56 profiles (sums of rows and of columns), and 76 magnitudes of the Fourier transform (the
    first eight row frequencies by the first ten column frequencies, without the four of 0 to 1 by 0 to 1).
    """
    x = images.astype(np.float64) / 255
    zones = x.reshape(len(x), 7, 4, 7, 4).mean((2, 4)).reshape(len(x), -1)
    profiles = np.concatenate([x.sum(1), x.sum(2)], 1)
    magnitudes = np.abs(np.fft.rfft2(x))[:, :8, :10]
    low = np.zeros((8, 10), dtype=bool)
    low[:2, :2] = True
    return np.concatenate([zones, profiles, magnitudes[:, ~low]], 1).astype(np.float32)


# name, kind, the folders it reads, how it is loaded from the root of the data
TASKS: list[tuple[str, Kind, tuple[str, ...], Callable[[Path], dict[Split, Part]]]] = [
    ("GRID digits, lips", "frames", ("grid_digit",), partial(_grid, modality="lips", kind="frames")),
    ("GRID digits, lips as vectors", "sequence", ("grid_digit",), partial(_grid, modality="lips", kind="sequence")),
    ("GRID digits, audio", "sequence", ("grid_digit",), partial(_grid, modality="audio", kind="sequence")),
    ("GRID digits, audio statistics", "vector", ("grid_digit",), _grid_means),
    ("FSDD, other speakers", "image", ("fsdd", "mnist"), partial(_fsdd, split="speaker_disjoint", kind="image")),
    ("FSDD, official", "image", ("fsdd", "mnist"), partial(_fsdd, split="official", kind="image")),
    ("FSDD, other speakers", "sequence", ("fsdd", "mnist"), partial(_fsdd, split="speaker_disjoint", kind="sequence")),
    ("FSDD, official", "sequence", ("fsdd", "mnist"), partial(_fsdd, split="official", kind="sequence")),
    ("MNIST", "image", ("mnist",), partial(_mnist, features=None)),
    ("MNIST, features of handwriting", "vector", ("mnist",), partial(_mnist, features=handwriting_features)),
]
