"""Least squares with a ridge, in one pass over the data."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

RIDGE = 1e-3  # share of the mean square of an input


class Ridge:
    """Collects sums, then solves for the least |x W' + b − y|² + RIDGE n mean(x²) |W|², x and y centred, in float64."""

    def __init__(self) -> None:
        self.n = 0
        self._sums: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in rows (…, d) and their targets (…, k)."""
        a, b = x.flatten(0, -2).double(), y.flatten(0, -2).double()
        new = (a.sum(0), b.sum(0), a.T @ a, a.T @ b)
        self._sums = new if self._sums is None else tuple(s + t for s, t in zip(self._sums, new, strict=True))  # type: ignore[assignment]
        self.n += len(a)

    def solve(self) -> tuple[Tensor, Tensor]:
        """Return weight (k, d) and bias (k,), float32."""
        assert self._sums is not None, "nothing was added"
        sum_a, sum_b, gram, cross = self._sums
        mean_a, mean_b = sum_a / self.n, sum_b / self.n
        gram = gram - self.n * torch.outer(mean_a, mean_a)
        cross = cross - self.n * torch.outer(mean_a, mean_b)
        size = gram.diagonal().mean().clamp(min=1e-12)  # n times the mean square of an input
        weight = torch.linalg.solve(
            gram + RIDGE * size * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), cross
        )
        return weight.T.float(), (mean_b - weight.T @ mean_a).float()

    @torch.no_grad()
    def solve_into(self, layer: nn.Module) -> None:
        """Set a linear layer to the solution."""
        assert isinstance(layer, nn.Linear)
        weight, bias = self.solve()
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def fit_linear(layer: nn.Module, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set a linear layer to the least-squares map of inputs (…, d) to targets (…, k); `pairs` is read once."""
    least = Ridge()
    for x, y in pairs:
        least.add(x, y)
    least.solve_into(layer)
