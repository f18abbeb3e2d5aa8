"""Which passages and questions training reads, in which order: the wire's and its rivals' alike."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count

import torch

from latentwire.data.base import Passage, Question
from suite.loader import EpochBatches

Asked = list[tuple[int, Question]]  # number of the passage within its batch, question


class Stream:
    """Draws passages and questions from a split; everything is a function of (seed, epoch, indices).

    An epoch has `per_epoch` contexts and goes on where the last one ended: a long generated split is never repeated,
    a short one is read in a new order every time.

    Args:
        passages: the split.
        questions: number of questions per passage, drawn anew each time; all where a passage has fewer.
        seed: seed of order and draws.
        per_epoch: number of contexts in an epoch; None: the split's length.
    """

    def __init__(self, passages: Sequence[Passage], questions: int, seed: int, per_epoch: int | None = None):
        self.passages, self.questions, self.seed = passages, questions, seed
        self.per_epoch = per_epoch or len(passages)
        self._orders: dict[int, list[int]] = {}

    def draw(self, items: Sequence[tuple[int, int]]) -> tuple[list[Passage], Asked, list[random.Random]]:
        """Return the passages of (index, epoch) pairs, what is asked about them, and one generator per passage."""
        draws = [random.Random(f"{self.seed}/{epoch}/{index}") for index, epoch in items]
        passages = [self.passages[self._place(epoch * self.per_epoch + index)] for index, epoch in items]
        asked = [
            (b, q)
            for b, (p, draw) in enumerate(zip(passages, draws, strict=True))
            for q in draw.sample(p.questions, min(self.questions, len(p.questions)))
        ]
        return passages, asked, draws

    def batches(self, batch_size: int) -> Iterator[tuple[list[Passage], Asked]]:
        """Yield training batches without end, as the loader of a run with this seed hands them out."""
        order = EpochBatches(self.per_epoch, batch_size, self.seed, train=True)
        for epoch in count():
            order.set_epoch(epoch)
            for items in order:
                passages, asked, _ = self.draw(items)
                yield passages, asked

    def _place(self, position: int) -> int:
        cycle, offset = divmod(position, len(self.passages))
        if cycle not in self._orders:
            self._orders.clear()
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + cycle)
            self._orders[cycle] = torch.randperm(len(self.passages), generator=generator).tolist()
        return self._orders[cycle][offset]
