"""A small pre-norm transformer with rotary positions; padding never leaks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.errors import UserError

BASE = 10000.0


def rotary(positions: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cos and sin (…, T, width) of positions (…, T), halves convention (Su et al., 2021)."""
    half = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    angle = positions.float().unsqueeze(-1) * BASE**-half
    angle = torch.cat([angle, angle], -1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + D/2) of (…, T, D) by the angles of cos, sin (broadcast)."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def check_heads(d: int, heads: int, where: str, width: str) -> None:
    """Refuse heads that cannot share a width.

    Args:
        d: the width; d / heads must be an even whole number.
        heads: the number of heads.
        where: the key of the node that has `heads`.
        width: the key that the width comes from.
    """
    if d % heads or (d // heads) % 2:
        fitting = max((n for n in range(1, heads) if d % n == 0 and (d // n) % 2 == 0), default=0)
        key, value = (f"{where}.heads", fitting) if fitting else (width, -(-d // (2 * heads)) * 2 * heads)
        found, expected = f"{heads} heads for width {d}", "a divisor that leaves an even width per head"
        raise UserError(f"{where}.heads", found, expected, f"set {key}={value}")


class Attention(nn.Module):
    """Attends from `queries` to `keys` with several heads, width d.

    Args:
        d: width; d / heads must be an even whole number.
        heads: number of heads.
        dropout: dropout of the attention weights.
        where: the key of the node that has `heads`, for the error.
        width: the key that the width comes from, for the error.

    Raises:
        UserError: heads that cannot share the width.
    """

    def __init__(self, d: int, heads: int, dropout: float = 0.0, where: str = "encoder", width: str = "encoder.width"):
        super().__init__()
        check_heads(d, heads, where, width)
        self.heads, self.dropout = heads, dropout
        self.q, self.k, self.v, self.out = (nn.Linear(d, d) for _ in range(4))

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Attend from (B, Q, d) to (B, T, d); the result is (B, Q, d).

        Args:
            queries: what asks.
            keys: what is asked.
            mask: (B, T), true on keys that count, at least one per row; None: all.
            positions: (T,) rotary positions, in self-attention alone; None: none.
        """
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f, x in
                   ((self.q, queries), (self.k, keys), (self.v, keys)))  # fmt: skip
        if positions is not None:
            cos, sin = rotary(positions, q.shape[-1], q.dtype)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(out.transpose(1, 2).flatten(2))


def feed_forward(d: int, dropout: float = 0.0, expansion: int = 4) -> nn.Sequential:
    """Build norm, linear, GELU, linear; (…, d) -> (…, d)."""
    return nn.Sequential(
        nn.LayerNorm(d), nn.Linear(d, expansion * d), nn.GELU(), nn.Dropout(dropout), nn.Linear(expansion * d, d)
    )


@torch.no_grad()
def hush(layer: nn.Module, factor: float = 0.02) -> None:
    """Make the last linear layer of a residual branch start close to zero (gradients still reach the branch)."""
    assert isinstance(layer, nn.Linear)
    layer.weight.mul_(factor)
    layer.bias.zero_()


class Block(nn.Module):
    """Adds attention, x + attention(norm x), and then an MLP, x + feed_forward(x).

    Both branches start close to zero, so that a fresh block is nearly the identity (compare Fixup, Zhang et al., 2019)
    and what pooling has kept of a text reaches the other end.
    """

    def __init__(self, d: int, heads: int, dropout: float, where: str, width: str):
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.attention = Attention(d, heads, dropout, where, width)
        self.mlp = feed_forward(d, dropout)
        self.drop = nn.Dropout(dropout)
        for last in (self.attention.out, self.mlp[-1]):
            hush(last)

    def forward(self, x: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.drop(self.attention(y, y, mask, positions))
        return x + self.drop(self.mlp(x))


class Transformer(nn.Module):
    """Stacks `layers` blocks; 0 are the identity.

    Args:
        d: width of the sequence.
        layers: number of blocks.
        heads: attention heads.
        dropout: dropout of attention weights and branches.
        where: the key of the node that has `heads`, for the error.
        width: the key that the width comes from, for the error.

    Raises:
        UserError: heads that cannot share the width.
    """

    def __init__(
        self,
        d: int,
        layers: int,
        heads: int,
        dropout: float = 0.0,
        where: str = "encoder",
        width: str = "encoder.width",
    ):
        super().__init__()
        self.blocks = nn.ModuleList(Block(d, heads, dropout, where, width) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Return (B, T, d), zero where `mask` is false; what stood there has no influence.

        Args:
            x: (B, T, d).
            mask: (B, T), true on what counts; None: all.
            positions: (T,) rotary positions; None: 0 … T - 1.
        """
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0.0)  # a NaN in the padding would survive a weight of 0
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)
        for block in self.blocks:
            x = block(x, mask, positions)
        return x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0.0)
