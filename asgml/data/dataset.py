"""From tables to batches: one vectorised read per modality, randomness from (seed, epoch, index) only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from asgml.data.counter_rng import sample_keys
from asgml.data.spec import Table

Batch = dict[str, Any]


def take(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return `x[rows]` as a plain array in RAM; a memory map is read in file order, the order of `rows` restored."""
    if not isinstance(x, np.memmap) or bool(np.all(rows[1:] >= rows[:-1])):
        return np.asarray(x[rows])
    order = np.argsort(rows, kind="stable")
    out = np.empty((len(rows), *x.shape[1:]), dtype=x.dtype)
    out[order] = x[rows[order]]
    return out


def to_device(batch: Batch, device: torch.device, wide: bool = False) -> Batch:
    """Return a batch with its tensors on a device; `wide` makes floating-point inputs float64.

    Written for the one form that batches have: Lightning's search through arbitrary containers costs 0.2 ms a step.
    """
    waits = device.type in ("cpu", "mps")

    def moved(x: torch.Tensor | None) -> torch.Tensor | None:
        return None if x is None else x.to(device, non_blocking=not waits)

    x = {m: moved(x) for m, x in batch["x"].items()}
    if wide:
        x = {m: v.double() if v is not None and v.is_floating_point() else v for m, v in x.items()}
    rows = {m: moved(r) for m, r in batch["rows"].items()}
    lengths = {m: moved(n) for m, n in batch.get("lengths", {}).items()}
    return {"x": x, "rows": rows, "lengths": lengths, "y": moved(batch["y"]), "index": moved(batch["index"])}


class MultimodalDataset(torch.utils.data.Dataset):
    """Serves one split in batches.

    `dataset.__getitems__([(index, epoch), …])` returns

        x: {modality: (n_m, …) float32 (int64 for tokens), the present rows only}
        rows: {modality: (n_m,) int64, their places in the batch, or None when all are present}
        lengths: {padded modality: (n_m,) int64, the valid steps of the present rows}; behind them x is 0
        y: (B,) int64, float32 in a regression
        index: (B,) int64, rows of the table

    An index of n or more stands for a row given without some of its modalities, see `numbers`.

    Args:
        table: the split.
        seed: the seed of the run; with epoch and index it fixes the augmentation of a sample.
        train: whether transforms augment.
    """

    def __init__(self, table: Table, seed: int, train: bool = False):
        self.table, self.seed, self.train = table, seed, train
        self._empty: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.table)

    def numbers(self, index: np.ndarray, drop: Mapping[str, np.ndarray]) -> list[int]:
        """Return the indices that stand for the rows `index` without the modalities that `drop` takes from them.

        Args:
            index: rows of the table, (k,).
            drop: by modality, whether each row goes without it, (k,) bool.
        """
        code = np.zeros(len(index), dtype=np.int64)
        for bit, modality in enumerate(self.table.x):
            if modality in drop:
                code |= np.asarray(drop[modality], dtype=np.int64) << bit
        return (np.asarray(index, dtype=np.int64) + len(self) * code).tolist()

    def __getitem__(self, sample: tuple[int, int]) -> Batch:
        return self.__getitems__([sample])

    def __getitems__(self, samples: Sequence[tuple[int, int]]) -> Batch:
        pairs = np.asarray(samples, dtype=np.int64).reshape(-1, 2)
        index, keys = pairs[:, 0], sample_keys(self.seed, pairs[:, 1], pairs[:, 0])
        code, index = np.divmod(index, len(self))
        x: dict[str, torch.Tensor] = {}
        rows: dict[str, torch.Tensor | None] = {}
        lengths: dict[str, torch.Tensor] = {}
        for bit, (modality, stored) in enumerate(self.table.x.items()):
            present = self.table.present[modality][index] & (code >> bit & 1 == 0)
            where = np.flatnonzero(present)
            rows[modality] = None if len(where) == len(index) else torch.from_numpy(where)
            if len(where):
                x[modality] = self.table.transforms[modality](take(stored, index[where]), keys[where], self.train)
            else:
                x[modality] = self._none_of(modality)
            if modality in self.table.lengths:
                n = lengths[modality] = torch.from_numpy(self.table.lengths[modality][index[where]])
                x[modality][torch.arange(x[modality].shape[1]) >= n[:, None]] = 0
        return {
            "x": x,
            "rows": rows,
            "lengths": lengths,
            "y": torch.from_numpy(np.asarray(self.table.y[index])),
            "index": torch.from_numpy(index.copy()),
        }

    def _none_of(self, modality: str) -> torch.Tensor:
        """Return zero rows of the right shape and type, so that transforms need not know empty input."""
        if modality not in self._empty:
            first = int(np.argmax(self.table.present[modality]))
            raw = take(self.table.x[modality], np.array([first]))
            self._empty[modality] = self.table.transforms[modality](raw, np.zeros(1, np.uint64), False)[:0]
        return self._empty[modality].clone()


def first_rows(batch: Batch, n: int) -> Batch:
    """Return the first n rows of a batch; a modality keeps those of its present rows that are among them."""
    out: Batch = {"x": {}, "rows": {}, "lengths": {}, "y": batch["y"][:n], "index": batch["index"][:n]}
    for modality, values in batch["x"].items():
        where = batch["rows"][modality]
        here: Any = slice(n) if where is None else where < n
        out["x"][modality] = values[here]
        out["rows"][modality] = None if where is None else where[here]
        if modality in batch.get("lengths", {}):
            out["lengths"][modality] = batch["lengths"][modality][here]
    return out
