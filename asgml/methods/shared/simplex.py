"""Minimises over the simplex of task weights, exactly, by trying every set of tasks with a weight above 0."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def supports(n: int, like: Tensor) -> Tensor:
    """Return all subsets of n tasks, (2^n, n) of 0 and 1."""
    bits = torch.arange(2**n, device=like.device)[:, None] >> torch.arange(n, device=like.device)
    return (bits & 1).to(like.dtype)


def minimise(candidates: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the candidate (K, T) on the simplex with the smallest objective, (T,), without NaN and negative ones."""
    slack = -(torch.finfo(candidates.dtype).eps ** 0.5)
    feasible = (candidates >= slack).all(1)
    candidates = torch.where(feasible[:, None], candidates, 1 / candidates.shape[1]).clamp(min=0)
    candidates = candidates / candidates.sum(1, keepdim=True)
    value = torch.where(feasible, objective(candidates), torch.inf)
    return candidates.index_select(0, value.argmin()[None])[0]
