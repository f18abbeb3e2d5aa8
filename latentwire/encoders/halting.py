"""A refiner that learns how many of its layers a slot needs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentwire.encoders.said import Saying
from latentwire.encoders.transformer import Transformer

EPS = 0.01  # what is left of a slot's probability when it halts
START = 0.1  # probability of halting at a state, at first: all layers are reached, and learn


def halted(left: Tensor, chance: Tensor, running: Tensor, last: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Take one decision of every slot; return its weight p of this state, what is left, and whether it runs on.

        p = left where left - chance <= EPS or nothing follows, else chance;   0 where it has halted before

    Args:
        left: (B, M) what the states so far have left of 1.
        chance: (B, M) probability of halting here.
        running: (B, M) bool, whether a slot has not halted before.
        last: whether no state follows.
    """
    ends = running & ((left - chance <= EPS) | last)
    p = torch.where(ends, left, torch.where(running, chance, 0.0))
    return p, left - p, running & ~ends


class HaltingTransformer(Saying):
    """Stacks blocks as `Transformer` does, and halts at every slot where it has learned to (Graves, 2016, 1603.08983).

        lambda_l = sigmoid(w_l · norm(h_l) + b_l),   out = sum_l p_l h_l,   depth = sum_l l p_l

    h_0 is what comes in and h_l what block l makes of h_(l-1); p is `halted`. Every slot decides for itself, as in the
    Universal Transformer (Dehghani et al., 2019), but here slots that have halted are read by the others as they go on.
    A layer that no slot of a batch needs is not computed, in training apart, where ranks must agree on gradients.

    It says `depth` (B,), the mean over a text's slots, which is smooth in every lambda, whereas Graves's N + R is in
    one alone; `RefinerDepth` puts a price on it. Without a price nothing keeps depth from growing.

    Args:
        d: width of a slot.
        layers: number of blocks, 1 or more; the largest depth.
        heads: attention heads.
        dropout: dropout of attention weights and branches.
    """

    def __init__(self, d: int, layers: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.says = {"depth": 1}
        self.blocks = Transformer(d, layers, heads, dropout).blocks
        self.halts = nn.ModuleList(nn.Linear(d, 1) for _ in range(layers))
        for halt in self.halts:
            assert isinstance(halt, nn.Linear)
            nn.init.zeros_(halt.weight)
            nn.init.constant_(halt.bias, math.log(START / (1 - START)))

    def forward(self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Return (B, M, d) of slots (B, M, d).

        Args:
            x: the slots.
            mask: None, as no slot is padding.
            positions: (M,) rotary positions; None: 0 … M - 1.
        """
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)
        left, running = x.new_ones(x.shape[:2]), x.new_ones(x.shape[:2], dtype=torch.bool)
        out, depth = torch.zeros_like(x), torch.zeros_like(left)
        for level in range(len(self.blocks) + 1):
            last = level == len(self.blocks)
            chance = left if last else self.halts[level](F.layer_norm(x, x.shape[-1:])).squeeze(-1).sigmoid()
            p, left, running = halted(left, chance, running, last)
            out, depth = out + p.unsqueeze(-1) * x, depth + level * p
            if last or not (self.training or bool(running.any())):
                break
            x = self.blocks[level](x, mask, positions)
        self.say("depth", depth.mean(1))
        return out
