"""Pooling by a transport plan: tokens share slots out among themselves, and no slot is left over."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.ranges import Count, Layers, Positive, Slots, Width
from latentwire.encoders.pooling import SMALL, Pooling, Short, chunk_mean


def plan(scores: Tensor, mass: Tensor, steps: int) -> Tensor:
    """Return the entropic transport plan P (B, T, M) between tokens and slots (Cuturi, 2013; Sinkhorn, 1967).

        P = argmax <P, scores> - sum P log P   with sum_j P_tj = mass_t and sum_t P_tj = 1 / M

    after `steps` rounds of scaling rows, then columns, in logarithms: columns are exact, rows in the limit.

    Args:
        scores: (B, T, M), in units of the entropy's weight.
        mass: (B, T) log of what a token has to give, -inf in the padding; its exponentials sum to 1.
        steps: number of rounds.
    """
    full = -math.log(scores.shape[2])
    v = scores.new_zeros(scores.shape[0], 1, scores.shape[2])
    for _ in range(steps):
        u = mass.unsqueeze(2) - (scores + v).logsumexp(2, keepdim=True)
        v = full - (scores + u).logsumexp(1, keepdim=True)
    return (scores + u + v).exp()


class TransportPlan(Pooling):
    """Moves what tokens say to M slots by a plan that is best for all of them together (after ComprExIT, 2602.03784).

        slot_j = M sum_t P_tj x_t,   mass_t = softmax_t(w · norm x_t)
        scores_tj = (Q (m_j + q_j) · K norm x_t / sqrt(d) - s (M (t + 1/2) / T - j - 1/2)^2) / epsilon

    P: `plan`; m_j the mean of slot j's chunk, q_j learned; s > 0 learned, 1 at first. Queries that attend each for
    itself may all read the same words and leave others out; here every slot receives 1 / M of the text, and what a
    token gives is its share of the whole, once. A fresh plan is nearly that of neighbouring chunks.

    Taken from the paper are the plan and its place behind the states of all layers (`ComprExITEncoder`); scores, the
    learned mass and the locality are this project's. Fewer slots are another plan, not a prefix of more.

    Args:
        d: width of the sequence and of the result.
        slices: number of slices of a message, each with a plan of its own over the whole text.
        max_slots: number of queries per slice.
        epsilon: weight of the entropy; small ones make hard plans, which want more steps.
        steps: rounds of scaling.
        short: what happens to a text of fewer tokens than slots: `repeat` (a token is shared out), or `refuse`.
    """

    def __init__(
        self,
        d: Width,
        slices: Count = 1,
        max_slots: Slots = 64,
        epsilon: Positive = 1.0,
        steps: Layers = 20,
        short: Short = "repeat",
    ):
        super().__init__(d, slices, short)
        self.max_slots, self.epsilon, self.steps = max_slots, epsilon, steps
        self.queries = nn.Parameter(SMALL * torch.randn(slices, max_slots, d))
        self.norm = nn.LayerNorm(d)
        self.q, self.k = nn.Linear(d, d), nn.Linear(d, d, bias=False)
        self.mass = nn.Linear(d, 1, bias=False)
        self.local = nn.Parameter(torch.tensor(math.log(math.e - 1)))  # whose softplus is 1
        with torch.no_grad():
            for layer in (self.q, self.k):
                layer.weight.mul_(math.sqrt(SMALL))
            self.mass.weight.mul_(SMALL)

    def plans(self, x: Tensor, mask: Tensor, lengths: Tensor, slots: Sequence[int]) -> list[Tensor]:
        """Return the plan (B, T, M) of every slice that has slots; arguments are those of `pool`.

        Raises:
            UserError: more slots than there are queries.
        """
        assert self.max_slots is not None
        if max(slots) > self.max_slots:
            asked, most = f"{max(slots)} slots", f"at most {self.max_slots}"
            raise UserError("encoder.pooling", asked, most, f"set encoder.pooling.max_slots={max(slots)}")
        normed = self.norm(x)
        mass = self.mass(normed).squeeze(2).masked_fill(~mask, -torch.inf).log_softmax(1)
        keys = self.k(normed)
        share = (torch.arange(x.shape[1], device=x.device) + 0.5) / lengths.unsqueeze(1)
        found = []
        for s, count in enumerate(slots):
            if count > 0:
                asks = self.q(chunk_mean(normed, lengths, count) + self.queries[s, :count])
                away = (share.unsqueeze(2) * count - torch.arange(count, device=x.device) - 0.5).to(x)
                scores = keys @ asks.mT / math.sqrt(self.d) - F.softplus(self.local) * away.square()
                found.append(plan(scores / self.epsilon, mass, self.steps))
        return found

    def pool(self, x: Tensor, mask: Tensor, lengths: Tensor, slots: Sequence[int]) -> Tensor:
        return torch.cat([p.shape[2] * p.mT @ x for p in self.plans(x, mask, lengths, slots)], 1)
