"""Sums over ranks, which cost nothing on one rank."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of ranks of the process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of every rank's `values`, on every rank; on one rank, `values` themselves."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total
