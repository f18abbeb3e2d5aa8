"""Means over ranks, which change nothing on one rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from callbacks.step.ranks import sum_over_ranks, world_size

Mean = Callable[[Tensor, str | None], Tensor]


def rank_weight(rows: int, like: Tensor) -> Tensor | float:
    """Return what a mean over this rank's rows counts for where the ranks have unequal numbers of them; 1 on one rank.

    Weighted by it, the mean over ranks, which DDP takes of gradients, is the mean over all rows.

    Args:
        rows: the number of this rank's rows.
        like: a tensor of the device and the type of the mean.
    """
    if world_size() == 1:
        return 1.0
    own = torch.tensor(float(rows), device=like.device, dtype=like.dtype)
    return own * world_size() / sum_over_ranks(own)


def reduced(mean: Mean) -> Mean:
    """Return `mean` such that it reduces over ranks what methods read as numbers.

    Means in the loss are left to DDP, which averages their gradients.
    """

    def over_ranks(values: Tensor, m: str | None) -> Tensor:
        value = mean(values, m)
        return value if value.requires_grad else sum_over_ranks(value) / world_size()

    return over_ranks
