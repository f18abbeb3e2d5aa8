"""Gaussian noise for whole gradients, at the price of reading memory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

SPAN = 1 << 22


@dataclass(frozen=True)
class NoiseTable:
    """Standard normal noise as slices of one table at random places (shared noise table, Salimans et al.,
    "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", 2017, section 2).

    Drawing anew for every weight costs a CPU more than the gradient modulation itself (ResNet18: 46 ms of 51). The
    entries of one slice are distinct and independent; slices of other tensors and steps begin at one of 2^22 places
    each, so a pair of weights shares its noise once in millions of steps. The table is a function of the seed, the
    places of seed and step: nothing to save, and a step that is taken again, or after a resume, draws the same.
    """

    seed: int
    _tables: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict, compare=False, repr=False)

    def slices(self, like: Sequence[Tensor], where: str) -> list[Tensor]:
        """N(0, 1) of the shape, type and device of each tensor: views of the table, not to be written to. `where` names
        the step and whatever else should have noise of its own.
        """
        places = random.Random(f"{self.seed}/{where}")
        out = []
        for x in like:
            begin, n = places.randrange(SPAN), x.numel()
            out.append(self._table(x, n)[begin : begin + n].view_as(x))
        return out

    def _table(self, x: Tensor, n: int) -> Tensor:
        key = (x.device, x.dtype)
        table = self._tables.get(key)
        if table is None or len(table) < SPAN + n:
            size = SPAN + -(-max(n, 1 << 20) // 16) * 16  # randn works in blocks of 16
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + 977)
            # drawn on the CPU: a longer table begins with the shorter one, and every device has the same
            table = self._tables[key] = torch.randn(size, generator=generator).to(x.device, x.dtype)
        return table
