"""Pooling to fewer vectors than there are slots, and from there to the slots."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from callbacks.ranges import Count, Layers, OpenShare, Slots, Width
from latentwire.encoders.pooling import ChunkQueries, Pooling, Short, chunk_mean

LEAST = 2  # of a single vector there is nothing to choose, and attention would learn nothing


class PoolExpand(Pooling):
    """Pools a text to P < M vectors by chunk means, and expands them to M slots by learned queries (`ChunkQueries`).

        p_i = mean of chunk i of P chunks,   P = max(2, floor(share M))
        slot_j = p_{floor(j P / M)} + q_j + what slot j reads of p_1 … p_P

    All that a message says of a text has passed P vectors: the narrow place is where tokens are averaged, and the slots
    say in many words what stands in few. It is the hybrid of `ChunkMean` and learned queries; a fresh one repeats chunk
    means. Slot j of slice s has its own query. Fewer slots are other chunks, not a prefix of more.

    Args:
        d: width of the sequence and of the result.
        slices: number of slices of a message.
        share: P over M.
        max_slots: number of queries per slice.
        layers: number of attention layers; each reads the P vectors again.
        heads: attention heads.
        short: what happens to a text of fewer tokens than slots, `repeat` or `refuse`. With fewer tokens than P chunks
            tokens recur.
    """

    def __init__(
        self,
        d: Width,
        slices: Count = 1,
        share: OpenShare = 0.5,
        max_slots: Slots = 64,
        layers: Layers = 1,
        heads: Layers = 4,
        short: Short = "repeat",
    ):
        super().__init__(d, slices, short)
        self.share = share
        self.expand = ChunkQueries(d, slices, max_slots, layers, heads)
        self.max_slots = max_slots

    def narrow(self, slots: int) -> int:
        """Return P for so many slots; it is below them from 3 slots on."""
        return max(LEAST, int(self.share * slots))

    def pool(self, x: Tensor, mask: Tensor, lengths: Tensor, slots: Sequence[int]) -> Tensor:
        found = []
        for s, count in enumerate(slots):
            if count == 0:
                continue
            few = chunk_mean(x, lengths, self.narrow(count))
            alone = [count if i == s else 0 for i in range(self.slices)]
            found.append(self.expand(few, mask.new_ones(few.shape[:2]), alone))
        return torch.cat(found, 1)
