"""Keys and values of every layer, of as many positions as are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from callbacks.ranges import DropoutRate, Width
from latentwire.adapters.base import Adapter
from latentwire.encoders.transformer import Attention, feed_forward, hush
from latentwire.injectors.base import Start
from latentwire.injectors.deep_prefix import DeepPrefix
from latentwire.lm.frozen import FrozenLM


class SizedPrefix(DeepPrefix):
    """Makes a deep prefix of N positions, whatever the number M of slots, by attention with norms, residuals, dropout.

        b_j = sum_i A_ji h_i + p_j                       h = adapter(z), j = 1 … N, A: `overlap`
        x   = b + dropout(Attention(norm(b), norm(h)))   positions ask slots
        x   = x + dropout(W_2 dropout(GELU(W_1 norm(x))))

    Layer l makes keys and values of x_j as `DeepPrefix` does of h_j. Prefix tuning (Li and Liang, 2021, §4.3) makes its
    prefix by such an MLP, as directly optimised keys and values are unstable, and chooses its length apart from the
    task; the resampler of Flamingo (Alayrac et al., 2022) turns any number of features into a fixed one. Both branches
    start close to zero, so the start is that of `DeepPrefix` on slots brought to N positions, A times what it aims at.

    What a reader spends are N positions: its budgets in tables are of N tokens, the message has M slots all the same.

    Args:
        d_z: width of a latent.
        lm: the model that reads.
        texts: as of `DeepPrefix`.
        adapter: factory that is called with `d_z`, `d_out=width` and `target=1.0`.
        width: width of h.
        start: as of `DeepPrefix`.
        length: N; None: M, without p.
        heads: attention heads; width / heads must be an even whole number.
        dropout: dropout of attention weights, hidden layer and branches.
    """

    def __init__(
        self,
        d_z: Width,
        lm: FrozenLM,
        texts: Sequence[str] | None,
        adapter: Callable[..., Adapter],
        width: Width = 256,
        start: Start = "text",
        length: Width | None = None,
        heads: Width = 4,
        dropout: DropoutRate = 0.1,
    ):
        super().__init__(d_z, lm, texts, adapter, width, start)
        self.length = length
        self.place = None if length is None else nn.Parameter(0.02 * torch.randn(length, width))
        self.norm_positions, self.norm_slots = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout, "injector", "injector.width")
        self.mlp, self.drop = feed_forward(width, dropout), nn.Dropout(dropout)
        for last in (self.attention.out, self.mlp[-1]):
            hush(last)

    def positions(self, slots: int) -> int:
        return slots if self.length is None else self.length

    def spread(self, of_slots: Tensor) -> Tensor:
        slots = of_slots.shape[-2]
        return overlap(self.positions(slots), slots).to(of_slots) @ of_slots

    def hidden(self, z: Tensor) -> Tensor:
        h = self.adapter(z)
        b = self.spread(h)
        b = b if self.place is None else b + self.place
        x = b + self.drop(self.attention(self.norm_positions(b), self.norm_slots(h)))
        refined: Tensor = x + self.drop(self.mlp(x))
        return refined


def overlap(positions: int, slots: int) -> Tensor:
    """Return A, (positions, slots) float64: the share of position j's stretch of a text that lies in slot i's.

    Position j of n covers j / n … (j + 1) / n of the text, and so does slot i of m. Rows sum to 1; with as many
    positions as slots it is the identity.
    """
    j, i = (torch.arange(n + 1, dtype=torch.float64) / n for n in (positions, slots))
    low, high = torch.maximum(j[:-1, None], i[None, :-1]), torch.minimum(j[1:, None], i[None, 1:])
    return (high - low).clamp(min=0) * positions
