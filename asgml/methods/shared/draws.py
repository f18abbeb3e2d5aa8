"""Draws at random so that a draw depends on the seed and the step alone: a vetoed step leaves no trace."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

SPAN = 1 << 22  # places at which a slice of a `NoiseTable` may begin
ROOM = 1 << 20  # entries behind the last of them, at least


def generator(device: torch.device, seed: int, *words: int | str) -> torch.Generator:
    """Return a fresh generator whose draws depend on `seed` and `words` alone, so that a resumed run draws the same.

    Args:
        words: say, a name and `step.t`, and `step.rank` where ranks are to differ.
    """
    digest = hashlib.blake2b("\0".join(map(str, (seed, *words))).encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "big") >> 1)


@dataclass(frozen=True)
class NoiseTable:
    """Holds standard normal noise, given out as slices of one table at random places (shared noise table, Salimans et
    al., "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", 2017, section 2).

    Drawing anew for every weight costs a CPU more than the gradient modulation itself (ResNet18: 46 ms of 51). The
    entries of one slice are distinct and independent; slices of other tensors and steps begin at one of 2^22 places
    each, so a pair of weights shares its noise once in millions of steps. The table is a function of the seed, the
    places of seed and step: nothing to save, and a step that is taken again, or after a resume, draws the same.

    Attributes:
        seed: seed of table and places.
    """

    seed: int
    _tables: dict[tuple[torch.device, torch.dtype], Tensor] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def slices(self, like: Sequence[Tensor], where: str) -> list[Tensor]:
        """Return N(0, 1) of the shape, type and device of each tensor: views of the table, not to be written to.

        Args:
            where: names the step and whatever else should have noise of its own.
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
            size = SPAN + -(-max(n, ROOM) // 16) * 16  # randn works in blocks of 16
            draw = torch.Generator().manual_seed(self.seed * 1_000_003 + 977)
            # drawn on the CPU: a longer table begins with the shorter one, and every device has the same
            table = self._tables[key] = torch.randn(size, generator=draw).to(x.device, x.dtype)
        return table
