"""Controls of a wire: its own latents with the message taken out. One that is as good as the wire unmasks it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Control = Literal["shuffled", "mean", "random"]
REMARKS: dict[str, str] = {
    "shuffled": "the wire's latents of another passage, for the same question",
    "mean": "the mean of the wire's latents over the passages",
    "random": "normal, with mean and spread per slot and channel of the wire's latents",
}


def control(values: Tensor, kind: Control, seed: int) -> Tensor:
    """Return what is sent in place of latents (N, M, d_z) of N different messages, in the same shape.

    `shuffled` gives no message its own latents. `mean` and `random` are not on a codec's grid.

    Raises:
        ValueError: fewer than two messages.
    """
    n = len(values)
    if n < 2:
        raise ValueError("a control needs two messages at least")
    generator = torch.Generator().manual_seed(seed)
    if kind == "mean":
        return values.mean(0, keepdim=True).expand_as(values)
    if kind == "random":
        noise = torch.randn(values.shape, generator=generator).to(values)
        return values.mean(0) + values.std(0) * noise
    return values[torch.tensor(derangement(n, seed), device=values.device)]


def derangement(n: int, seed: int) -> list[int]:
    """Return a drawn order of 0 … n - 1 in which nothing stays in its place, n >= 2."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    return [int(i) for i in other]
