"""Residual adapters and projections of AA-CLIP."""

from __future__ import annotations

from torch import Tensor, nn

from asgml.model.cross_attention import mix
from callbacks.ranges import Share, Width


class Projection(nn.Module):
    """Maps tokens (…, d_in) to (…, d_out) by a linear map without bias and a LeakyReLU (Ma et al., CVPR 2025).

    Args:
        d_in: the width that it reads.
        d_out: the width that it writes.
    """

    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.linear = nn.Linear(d_in, d_out, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)
        self.activation = nn.LeakyReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


class Adapter(nn.Module):
    """Mixes tokens with what it makes of them: x <- w a(x) |x| / |a(x)| + (1 - w) x (AA-CLIP, Ma et al., CVPR 2025).

    Args:
        dim: the width of a token.
        weight: the weight w.
    """

    def __init__(self, dim: Width, weight: Share = 0.1):
        super().__init__()
        self.weight = weight
        self.map = Projection(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return mix(x, self.map(x), self.weight, matched=True, keep=1.0 - self.weight)
