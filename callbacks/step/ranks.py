"""Sums over ranks and rows of all ranks, which cost nothing on one rank."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of ranks of the process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this rank in the process group, 0 without one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of every rank's `values`, on every rank; on one rank, `values` themselves."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def means_over_ranks(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Average 0-d values over ranks in one reduction, in float64 on a CPU and else in float32; return them detached.

    On one rank, they are the values themselves, in their own type.
    """
    if world_size() == 1:
        return {name: value.detach() for name, value in values.items()}
    packed = torch.stack(
        [v.detach().to(torch.float64 if v.device.type == "cpu" else torch.float32) for v in values.values()]
    )
    return dict(zip(values, (sum_over_ranks(packed) / world_size()).unbind(), strict=True))


def gather_rows(rows: Tensor) -> list[Tensor]:
    """Return every rank's rows (n_r, …), on every rank; n_r may differ, everything else is the same on all."""
    if world_size() == 1:
        return [rows]
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.full_like(counts[0], rows.shape[0]))
    sizes = [int(n) for n in counts]
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: rows.shape[0]] = rows
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded)
    return [x[:n] for x, n in zip(found, sizes, strict=True)]
