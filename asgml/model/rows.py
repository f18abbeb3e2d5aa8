"""Only present rows are encoded; here they take their places in the batch."""

from __future__ import annotations

import torch
from torch import Tensor


def scatter(f: Tensor, rows: Tensor | None, batch: int) -> Tensor:
    """Features (n, …) of the present rows -> (batch, …), 0 where the modality is absent.

    Args:
        f: features of the present rows.
        rows: (n,) long, distinct, their positions in the batch; None: all present, `f` is returned.
        batch: rows in the batch.

    Differentiable; nothing is read back from the device.
    """
    if rows is None:
        return f
    return f.new_zeros(batch, *f.shape[1:]).index_copy(0, rows, f)


def present_mask(rows: Tensor | None, batch: int, device: torch.device | None = None) -> Tensor:
    """(batch,) bool: True at `rows`, everywhere when `rows` is None (`device` matters then only)."""
    if rows is None:
        return torch.ones(batch, dtype=torch.bool, device=device)
    return torch.zeros(batch, dtype=torch.bool, device=rows.device).index_fill(0, rows, True)


def assemble(
    features: dict[str, Tensor], rows: dict[str, Tensor | None], batch: int
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Features of present rows per modality -> what a fusion takes: features (batch, d) and the masks.

    The masks are None when no modality is missing anywhere in the batch.
    """
    placed = {m: scatter(f, rows[m], batch) for m, f in features.items()}
    if all(rows[m] is None for m in features):
        return placed, None
    return placed, {m: present_mask(rows[m], batch, f.device) for m, f in features.items()}
