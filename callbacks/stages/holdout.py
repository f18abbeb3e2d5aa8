"""Rows that a probe is scored on and never trained on: which ones, and a buffer of the newest of them."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from callbacks.step.ranks import gather_rows, rank, world_size

Features = dict[str, tuple[Tensor, Tensor, Tensor]]  # modality -> features (n, d), labels (n,), held out or not (n,)


def held_out(index: Tensor, share: float, seed: int = 0) -> Tensor:
    """Return which samples are held out: a fixed subset of the data set, whatever batch, epoch or rank they come in.

    A sample's number is hashed to 32 bits (the finaliser of MurmurHash3) and held out where the hash is below
    `share * 2^32`; nothing is drawn from a generator, and nothing waits for the device.

    Args:
        index: the numbers of the samples, (n,) int64, ≥ 0.
        share: the expected share of held-out samples, in (0, 1).
        seed: another seed holds out other samples.

    Returns:
        a mask (n,) of the type bool.
    """
    low = 0xFFFFFFFF
    h = (index + seed * 0x9E3779B1) & low
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & low
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & low
    return (h ^ (h >> 16)) < int(share * 2**32)


def held_positions(first: int, count: int, share: float, device: torch.device) -> Tensor:
    """Return which of `count` consecutive rows of a stream are held out, evenly spread, as a mask (n,).

    Row i is held out where `floor((i + 1) * share) > floor(i * share)`.

    Args:
        first: the number of the first row in the stream.
        count: the number of rows.
        share: the share of held-out rows, in (0, 1).
        device: the device of the mask.
    """
    i = torch.arange(first, first + count, device=device).double()
    return torch.floor((i + 1) * share) > torch.floor(i * share)


class FeatureBuffer:
    """Keeps the features of the last batches, with the mask of the rows that are held out.

    Whole batches are kept, because picking rows by a mask would wait for the device.

    Args:
        batches: the number of batches that are kept.
    """

    def __init__(self, batches: int):
        self._kept: deque[Features] = deque(maxlen=batches)

    def __len__(self) -> int:
        return len(self._kept)

    def append(self, batch: Features) -> None:
        """Take in a batch and drop the oldest where the buffer is full; tensors are copied."""
        self._kept.append({m: (f.clone(), y.clone(), held) for m, (f, y, held) in batch.items()})

    def rows(self, m: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return all rows of modality m that are in the buffer, and which of them are held out."""
        f, y, held = zip(*(b[m] for b in self._kept if m in b), strict=True)
        return torch.cat(f), torch.cat(y), torch.cat(held)

    def state(self) -> dict[str, Any]:
        """Return the rows of every rank, by modality; call it on all ranks."""
        out: dict[str, Any] = {"batches": self._kept.maxlen, "rows": {}, "counts": {}}
        for m in self._kept[-1] if self._kept else ():
            counts = torch.tensor([b[m][1].shape[0] if m in b else 0 for b in self._kept])
            device = self._kept[-1][m][0].device
            found = [gather_rows(x) for x in self.rows(m)]
            out["rows"][m] = [[x.cpu() for x in of] for of in zip(*found, strict=True)]  # rank -> f, y, held
            out["counts"][m] = [x.cpu() for x in gather_rows(counts.to(device))]
        return out

    @classmethod
    def of_state(cls, state: dict[str, Any], device: torch.device) -> FeatureBuffer:
        """Return the buffer that `state` describes.

        On another number of ranks than it was saved on, every rank takes its share of all rows.
        """
        buffer = cls(state["batches"])
        batches: list[Features] = []
        for m, ranks in state["rows"].items():
            cut = [
                list(zip(*(x.split(counts.tolist()) for x in rows), strict=True))
                for rows, counts in zip(ranks, state["counts"][m], strict=True)
            ]
            if len(cut) == world_size():
                mine = cut[rank()]
            else:
                whole = [[torch.cat(part) for part in zip(*same, strict=True)] for same in zip(*cut, strict=True)]
                mine = [tuple(x[rank() :: world_size()] for x in batch) for batch in whole]
            batches = batches or [{} for _ in mine]
            for batch, (f, y, held) in zip(batches, mine, strict=True):
                batch[m] = (f.to(device), y.to(device), held.to(device))
        buffer._kept.extend(batches)
        return buffer
