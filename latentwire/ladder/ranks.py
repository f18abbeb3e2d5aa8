"""How many directions latents use, rounding left out."""

from __future__ import annotations

import torch
from torch import Tensor

from callbacks.run.collapse import effective_rank

ROUNDING = 1e-4  # deviations below this share of the whole are rounding, whose rank is high and means nothing


def rank_of(rows: Tensor) -> float:
    """Return the effective rank of rows (n, d) around their mean, 0 … min(n - 1, d); 0 where they are one vector."""
    x = rows.double()
    spread = (x - x.mean(0)).norm()
    return effective_rank(x) if spread > ROUNDING * x.norm() else 0.0


def slot_rank(values: Tensor) -> float:
    """Return `rank_of` the slots of a message, averaged over messages (n, M, d_z); at most M - 1."""
    return float(torch.tensor([rank_of(slots) for slots in values.cpu()]).mean())
