"""Pooling: a padded sequence of any length to an exact number of slots.

A message has one or several slices (`LatentLayout`); every slice covers the whole text, so `slots` is a list with one
count per slice. Padding never leaks: the result is the same with more padding, on either side, whatever it holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.ranges import Count, Layers, Slots, Width
from latentwire.encoders.transformer import Attention, Transformer, feed_forward, hush

Short = Literal["repeat", "refuse"]
SMALL = 0.02  # what a fresh branch is scaled by
POOLING = "encoder.pooling"  # its key, for errors
MOST_PLACES = 1024  # per slot, in the first level of a hierarchy


class Pooling(nn.Module):
    """Shrinks or stretches a sequence to slots; base of all poolings.

    Args:
        d: width of the sequence and of the result.
        slices: number of slices that `slots` will count.
        short: what happens to a text of fewer tokens than slots: `repeat` tokens, or `refuse` with a UserError.

    Attributes:
        max_slots: largest number of slots of a slice, where each has parameters of its own; None: any.
    """

    max_slots: int | None = None

    def __init__(self, d: Width, slices: Count, short: Short = "repeat"):
        super().__init__()
        self.d, self.slices, self.short = d, slices, short

    def forward(self, x: Tensor, mask: Tensor, slots: Sequence[int]) -> Tensor:
        """Pool (B, T, d) to (B, sum(slots), d).

        Args:
            x: the sequence.
            mask: (B, T) bool, true on tokens, at least one per row.
            slots: number of slots of each slice, in order; 0 leaves a slice out.

        Raises:
            ValueError: a row without tokens, or counts that do not fit.
            UserError: a text of fewer tokens than slots, with `short=refuse`.
        """
        if len(slots) != self.slices or min(slots) < 0 or sum(slots) < 1:
            raise ValueError(f"slots {list(slots)} for {self.slices} slices")
        lengths = mask.sum(1)
        shortest = int(lengths.min())
        if shortest == 0:
            raise ValueError("a row without tokens cannot be pooled")
        if self.short == "refuse" and shortest < max(slots):
            raise UserError(
                "encoder.pooling.short=refuse",
                f"a text of {shortest} tokens",
                f"at least {max(slots)}, one per slot",
                "set encoder.pooling.short=repeat",
            )
        x, mask = left_aligned(x, mask)
        return self.pool(x.masked_fill(~mask.unsqueeze(-1), 0.0), mask, lengths, slots)

    def pool(self, x: Tensor, mask: Tensor, lengths: Tensor, slots: Sequence[int]) -> Tensor:
        """Pool checked input: padding on the right, zeros in it; `lengths` (B,) tokens."""
        raise NotImplementedError


def left_aligned(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the tokens of each row to the front, in order; (B, T, d), (B, T) -> the same shapes."""
    order = (~mask).long().argsort(dim=1, stable=True)
    return x.gather(1, order.unsqueeze(-1).expand_as(x)), mask.gather(1, order)


def chunk_borders(lengths: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Return first token and end of each chunk, (B, slots) each.

        start_j = floor(j T / M),   end_j = max(floor((j + 1) T / M), start_j + 1)

    For T >= M the chunks are disjoint, cover the text and differ by at most one token; for T < M a token repeats.
    """
    j = torch.arange(slots + 1, device=lengths.device)
    border = j * lengths.unsqueeze(1) // slots
    start = border[:, :-1]
    return start, torch.maximum(border[:, 1:], start + 1)


def chunk_mean(x: Tensor, lengths: Tensor, slots: int) -> Tensor:
    """Return the mean of each chunk of `chunk_borders`; (B, T, d), padding zero and on the right -> (B, slots, d)."""
    start, end = chunk_borders(lengths, slots)
    t = torch.arange(x.shape[1], device=x.device)
    inside = (t >= start.unsqueeze(2)) & (t < end.unsqueeze(2))  # (B, slots, T)
    return inside.to(x.dtype) / (end - start).unsqueeze(2) @ x


def unchunk(places: Tensor, lengths: Tensor) -> Tensor:
    """Lay out what chunks hold token by token; (B, slots, chunk, d), lengths (B,) -> (B, T, d).

    Tokens beyond a chunk's places repeat its last one.
    """
    start, _ = chunk_borders(lengths, places.shape[1])
    t = torch.arange(int(lengths.max()), device=places.device)
    slot = (t >= start.unsqueeze(2)).sum(1) - 1  # (B, T): the last chunk that starts at or before t
    place = (t - start.gather(1, slot)).clamp(max=places.shape[2] - 1)
    return places[torch.arange(len(places), device=places.device).unsqueeze(1), slot, place]


class ChunkMean(Pooling):
    """Takes the mean of M consecutive chunks; no parameters.

    Args:
        d: width of the sequence and of the result.
        slices: number of slices of a message.
        short: what happens to a text of fewer tokens than slots, `repeat` or `refuse`.
    """

    def __init__(self, d: Width, slices: Count = 1, short: Short = "repeat"):
        super().__init__(d, slices, short)

    def pool(self, x: Tensor, mask: Tensor, lengths: Tensor, slots: Sequence[int]) -> Tensor:
        return torch.cat([chunk_mean(x, lengths, n) for n in slots if n > 0], 1)


class CrossAttention(Pooling):
    """Lets learned queries attend to the text (Perceiver, Jaegle et al., 2021; ICAE's memory slots, fixed input).

    Slot j of slice s has its own query, also when fewer slots are used: fewer slots are a prefix of more. Without
    `positions` the result does not depend on the order of x. M > T is no special case: a query always attends.

    Args:
        d: width of the sequence and of the result.
        slices: number of slices of a message.
        max_slots: number of queries per slice.
        layers: number of attention layers; each reads the text again.
        heads: attention heads.
        positions: whether keys hold where a token stands, as a share of the text's length (16 sines and cosines).
        short: what happens to a text of fewer tokens than slots, `repeat` (nothing repeats here) or `refuse`.
    """

    FREQUENCIES = 16

    def __init__(
        self,
        d: Width,
        slices: Count = 1,
        max_slots: Slots = 64,
        layers: Layers = 1,
        heads: Layers = 4,
        positions: bool = True,
        short: Short = "repeat",
    ):
        super().__init__(d, slices, short)
        self.max_slots = max_slots
        self.queries = nn.Parameter(torch.randn(slices, max_slots, d))
        self.norm = nn.LayerNorm(d)
        self.where = nn.Linear(2 * self.FREQUENCIES, d) if positions else None
        self.query_norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(layers))
        self.attentions = nn.ModuleList(Attention(d, heads, where=POOLING) for _ in range(layers))
        self.mlps = nn.ModuleList(feed_forward(d) for _ in range(layers))

    def pool(self, x: Tensor, mask: Tensor, lengths: Tensor, slots: Sequence[int]) -> Tensor:
        assert self.max_slots is not None
        if max(slots) > self.max_slots:
            raise UserError(
                "pooling",
                f"{max(slots)} slots",
                f"at most {self.max_slots}",
                f"set encoder.pooling.max_slots={max(slots)}",
            )
        keys = self.norm(x)
        if self.where is not None:
            share = (torch.arange(x.shape[1], device=x.device) + 0.5) / lengths.unsqueeze(1)  # (B, T)
            angle = share.unsqueeze(-1) * torch.arange(1, self.FREQUENCIES + 1, device=x.device) * math.pi
            keys = keys + self.where(torch.cat([angle.sin(), angle.cos()], -1).to(x.dtype))
        h = self.started(x, lengths, slots)
        for norm, attention, mlp in zip(self.query_norms, self.attentions, self.mlps, strict=True):
            h = h + attention(norm(h), keys, mask)
            h = h + mlp(h)
        return h

    def started(self, x: Tensor, lengths: Tensor, slots: Sequence[int]) -> Tensor:
        """Return what the queries are before they read (B, sum(slots), d): the same for all texts."""
        return torch.cat([self.queries[s, :n] for s, n in enumerate(slots)]).expand(x.shape[0], -1, -1)


class ChunkQueries(CrossAttention):
    """Lets learned queries attend to the text that start as the means of M consecutive chunks of it.

    A query is the mean of its slot's chunk plus what is learned of the slot, and what it reads is small at first: a
    fresh one is nearly `ChunkMean`, from where attention learns what else of the text a slot should hold. Queries
    that are the same for all texts have to find out first where things stand. Fewer slots are other chunks, not a
    prefix of more. The arguments are those of `CrossAttention`.
    """

    def __init__(
        self,
        d: Width,
        slices: Count = 1,
        max_slots: Slots = 64,
        layers: Layers = 1,
        heads: Layers = 4,
        positions: bool = True,
        short: Short = "repeat",
    ):
        super().__init__(d, slices, max_slots, layers, heads, positions, short)
        with torch.no_grad():
            self.queries.mul_(SMALL)
        for attention, mlp in zip(self.attentions, self.mlps, strict=True):
            assert isinstance(attention, Attention)
            assert isinstance(mlp, nn.Sequential)
            hush(attention.out, SMALL)
            hush(mlp[-1], SMALL)

    def started(self, x: Tensor, lengths: Tensor, slots: Sequence[int]) -> Tensor:
        """Return the means of the chunks with what is learned of each slot, (B, sum(slots), d)."""
        means = torch.cat([chunk_mean(x, lengths, n) for n in slots if n > 0], 1)
        return means + super().started(x, lengths, slots)


class StridedConv(Pooling):
    """Shrinks T to about T / s^layers by convolutions of stride s, and that to exactly M by chunk means.

    Keep s^layers <= T / M, or tokens recur. Positions beyond a row's own end are zero before every layer, as if it
    stood alone.

    Args:
        d: width of the sequence and of the result.
        slices: number of slices of a message.
        stride: stride of each layer.
        layers: number of layers.
        kernel: width of the convolutions, odd, at least `stride`.
        short: what happens to a text of fewer tokens than slots, `repeat` or `refuse`.
    """

    def __init__(
        self,
        d: Width,
        slices: Count = 1,
        stride: Layers = 2,
        layers: Layers = 1,
        kernel: Layers = 3,
        short: Short = "repeat",
    ):
        super().__init__(d, slices, short)
        if kernel % 2 == 0 or kernel < stride:
            raise UserError(
                "encoder.pooling",
                f"stride {stride}, kernel {kernel}",
                "an odd kernel of at least the stride",
                "set encoder.pooling.stride=2 and encoder.pooling.kernel=3",
            )
        self.stride = stride
        self.convs = nn.ModuleList(nn.Conv1d(d, d, kernel, stride, padding=kernel // 2) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(layers))

    def pool(self, x: Tensor, mask: Tensor, lengths: Tensor, slots: Sequence[int]) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(F.gelu(conv(x.transpose(1, 2)).transpose(1, 2)))
            lengths = -(-lengths // self.stride)
            inside = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
            x = x.masked_fill(~inside.unsqueeze(-1), 0.0)
        return torch.cat([chunk_mean(x, lengths, n) for n in slots if n > 0], 1)


class Hierarchical(Pooling):
    """Shrinks in levels, T -> M f^(levels-1) -> … -> M f -> M: chunk means, a transformer block after each.

    Args:
        d: width of the sequence and of the result.
        slices: number of slices of a message; all use the same blocks.
        factor: f, by which a level shrinks; the first level takes what is left.
        levels: number of levels.
        heads: attention heads.
        short: what happens to a text of fewer tokens than slots, `repeat` or `refuse`. An early level may have more
            than T places; tokens recur there in either case.
    """

    def __init__(
        self,
        d: Width,
        slices: Count = 1,
        factor: Layers = 2,
        levels: Layers = 2,
        heads: Layers = 4,
        short: Short = "repeat",
    ):
        super().__init__(d, slices, short)
        if factor ** (levels - 1) > MOST_PLACES:
            raise UserError(
                "encoder.pooling",
                f"factor {factor}, levels {levels}: the first level has {factor}^{levels - 1} places per slot",
                f"at most {MOST_PLACES} places per slot",
                "set encoder.pooling.factor=2 and encoder.pooling.levels=2",
            )
        self.factor = factor
        self.blocks = nn.ModuleList(Transformer(d, 1, heads, where=POOLING) for _ in range(levels))

    def pool(self, x: Tensor, mask: Tensor, lengths: Tensor, slots: Sequence[int]) -> Tensor:
        return torch.cat([self._slice(x, lengths, n) for n in slots if n > 0], 1)

    def _slice(self, x: Tensor, lengths: Tensor, slots: int) -> Tensor:
        for level, block in enumerate(self.blocks):
            size = slots * self.factor ** (len(self.blocks) - 1 - level)
            x = block(chunk_mean(x, lengths, size))
            lengths = torch.full_like(lengths, size)
        return x
