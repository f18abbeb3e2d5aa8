"""Means over ranks, which change nothing on one rank."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from callbacks.step.ranks import sum_over_ranks, world_size

Mean = Callable[[Tensor, str | None], Tensor]


def reduced(mean: Mean) -> Mean:
    """Return `mean` such that it reduces over ranks what methods read as numbers.

    Means in the loss are left to DDP, which averages their gradients.
    """

    def over_ranks(values: Tensor, m: str | None) -> Tensor:
        value = mean(values, m)
        return value if value.requires_grad else sum_over_ranks(value) / world_size()

    return over_ranks
