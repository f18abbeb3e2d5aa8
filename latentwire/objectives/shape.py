"""The shape of the answer's distribution: how sure its first token is, and where it stops."""

from __future__ import annotations

import torch
from torch import Tensor

from callbacks.ranges import Positive
from latentwire.lm.metrics import first_token
from latentwire.lm.results import AnswerLogprobs
from latentwire.objectives.base import Objective, ObjectiveOutput, Seen
from latentwire.train.curriculum import Schedule


class FirstTokenEntropy(Objective):
    """Rewards an undecided first token: the mean over answers of max(0, ceiling - H(p(a_1 | latents, question))).

    A collapsed wire answers every question with one token; a little entropy keeps others reachable. Entropy alone says
    nothing of skill: a flat distribution has as much where its likeliest token is the same for all questions. The
    margin of the likeliest token over the second is observed beside it.

    Args:
        weight: its weight over time.
        ceiling: the entropy, in nats, beyond which nothing is gained.
    """

    observes = ("first_token_entropy", "first_token_margin")

    def __init__(self, weight: Schedule, ceiling: Positive = 1.0):
        super().__init__(weight)
        self.ceiling = ceiling

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        rows = seen.rows["answer"]
        scores = rows.scores[rows.position == 0]
        entropy = -(scores.exp() * scores.clamp(min=-1e4)).sum(-1)  # a probability of 0 adds nothing
        found = first_token(rows)
        observed = {"first_token_entropy": found.entropy.mean(), "first_token_margin": found.margin.float().mean()}
        return ObjectiveOutput((self.ceiling - entropy).clamp(min=0).mean(), observed)


class AnswerLength(Objective):
    """Penalises answers that stop too early or too late.

        loss = mean over answers of  [ -log p(stop | a) - sum over i < |a| of log(1 - p(stop | a_<i)) ] / |a|

    The stop token is the last one of each answer. Right words without an end are the usual failure of latents that are
    like embeddings (F1 0.24 with the answer present); the cross-entropy weighs the end as one token of many.

    Args:
        weight: its weight over time.
    """

    observes = ("stop_nll",)

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        rows = seen.rows["answer"]
        at_end, stop = ends(rows)
        log_p = rows.scores.gather(1, stop[:, None])[:, 0]
        going_on = rows.scores.scatter(1, stop[:, None], -torch.inf).logsumexp(-1)  # 1 - p would lose its gradient
        loss = -log_p.where(at_end, going_on)
        return ObjectiveOutput(rows.per_answer(loss).mean(), {"stop_nll": -log_p[at_end].detach().mean()})


def ends(rows: AnswerLogprobs) -> tuple[Tensor, Tensor]:
    """Return which of N positions are the last of their answer, (N,) bool, and each position's stop token, (N,)."""
    last = rows.position.new_full((rows.batch,), -1).scatter_reduce(0, rows.row, rows.position, "amax")
    at_end = rows.position == last[rows.row]
    stop = rows.tokens.new_zeros(rows.batch).index_put((rows.row[at_end],), rows.tokens[at_end])
    return at_end, stop[rows.row]
