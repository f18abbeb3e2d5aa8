"""Least squares with a ridge."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-3  # share of the mean square of an input

def ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(…, d), (…, k) -> weight (k, d), bias (k) with the least |x W' + b − y|² + RIDGE n mean(x²) |W|², x and y
    centred; float64 inside.
    """
    a, b = x.flatten(0, -2).double(), y.flatten(0, -2).double()
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = a - mean_a, b - mean_b
    gram = a.T @ a + RIDGE * a.pow(2).mean().clamp(min=1e-12) * len(a) * torch.eye(a.shape[1], dtype=a.dtype)
    weight = torch.linalg.solve(gram, a.T @ b).T
    return weight.float(), (mean_b - weight @ mean_a).float()
