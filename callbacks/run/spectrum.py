"""The spectrum of a set of vectors, and how many directions it amounts to."""

from __future__ import annotations

import torch
from torch import Tensor


def singular_values(rows: Tensor) -> Tensor:
    """Return the singular values of rows (n, d), in descending order, (min(n, d),) float64."""
    return torch.linalg.svdvals(rows.double())


def entropy_rank(values: Tensor) -> float:
    """Return the effective rank behind singular values (k,), from 1 to k; 0 where all of them are 0.

    It is exp(-sum p ln p) of p = values / sum(values) (Roy and Vetterli, "The effective rank: a measure of effective
    dimensionality", EUSIPCO 2007): 1 for vectors along one line, k for k orthogonal ones of equal length.
    """
    total = values.sum()
    if not total > 0:
        return 0.0
    p = values / total
    p = p[p > 0]
    return float(torch.exp(-(p * p.log()).sum()))
