"""Sums and means over ranks; on one rank nothing happens."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

Mean = Callable[[Tensor, str | None], Tensor]


def world_size() -> int:
    """Ranks of the process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of every rank's `values`, on every rank."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def means_over_ranks(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """0-d values averaged over ranks in one reduction, detached, in the device's widest common type."""
    packed = torch.stack(
        [v.detach().to(torch.float64 if v.device.type == "cpu" else torch.float32) for v in values.values()]
    )
    return dict(zip(values, (sum_over_ranks(packed) / world_size()).unbind(), strict=True))


def reduced(mean: Mean) -> Mean:
    """Means that methods read as numbers are reduced over ranks (those in the loss are not: DDP averages their
    gradients)."""

    def over_ranks(values: Tensor, m: str | None) -> Tensor:
        value = mean(values, m)
        return value if value.requires_grad else sum_over_ranks(value) / world_size()

    return over_ranks
