"""Only present rows are encoded; here they take their places in the batch."""

from __future__ import annotations

import torch
from torch import Tensor


def scatter(f: Tensor, rows: Tensor | None, batch: int) -> Tensor:
    """Return the features of the present rows in their places, (batch, …), and 0 where the modality is absent.

    Differentiable; nothing is read back from the device.

    Args:
        f: the features of the present rows, (n, …).
        rows: their distinct positions in the batch, (n,) int64; None is all rows, and `f` is returned.
        batch: the number of rows in the batch.
    """
    if rows is None:
        return f
    return f.new_zeros(batch, *f.shape[1:]).index_copy(0, rows, f)


def present_mask(rows: Tensor | None, batch: int, device: torch.device | None = None) -> Tensor:
    """Return a mask (batch,) bool that is True at `rows`, or everywhere, on `device`, if `rows` is None."""
    if rows is None:
        return torch.ones(batch, dtype=torch.bool, device=device)
    return torch.zeros(batch, dtype=torch.bool, device=rows.device).index_fill(0, rows, True)
