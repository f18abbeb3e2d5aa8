"""Distillation from the same language model reading the text."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from callbacks.ranges import Count, Positive
from latentwire.objectives.base import ANSWER_TOKENS, Objective, ObjectiveOutput, Seen, TopK
from latentwire.train.curriculum import Schedule

TINY = 1e-7
ROUNDED = 1e-6  # a mass that float32 cannot tell from none


def top_k(scores: Tensor, k: int) -> TopK:
    """Reduce log-probabilities (N, V) to the k best and the mass of the rest."""
    best = scores.float().topk(min(k, scores.shape[1]), -1)
    tail = (1 - best.values.exp().sum(-1)).clamp(min=0)
    return TopK(best.indices, best.values, tail)


def kl_top_k(teacher: TopK, scores: Tensor) -> Tensor:
    """Return KL(teacher || student) in nats over k + 1 outcomes, the k tokens and "anything else"; (N,).

    A lower bound of the full divergence (data processing), equal to it where the k tokens hold all the mass.

    Args:
        teacher: distributions at N positions.
        scores: (N, V) log-probabilities of the student, float32.
    """
    return kl_outcomes(teacher, outcomes(teacher, scores))


def outcomes(teacher: TopK, scores: Tensor) -> Tensor:
    """Return the student's log-probabilities of the teacher's k tokens and, last, of anything else; (N, k + 1)."""
    student = scores.gather(1, teacher.ids)
    rest = (1 - student.exp().sum(-1, keepdim=True)).clamp(min=TINY).log()
    return torch.cat([student, rest], 1)


def kl_outcomes(teacher: TopK, student: Tensor) -> Tensor:
    """Return KL(teacher || student) of `outcomes` in nats, (N,)."""
    inside = (teacher.logprobs.exp() * (teacher.logprobs - student[:, :-1])).sum(-1)
    tail = teacher.tail * (teacher.tail.clamp(min=TINY).log() - student[:, -1])
    return inside + torch.where(teacher.tail > 0, tail, 0.0)


def tempered(teacher: TopK, scores: Tensor, temperature: float) -> tuple[TopK, Tensor]:
    """Return teacher and student (`outcomes`) at a temperature.

    Outcome i has probability p_i^(1/T) / sum_j p_j^(1/T), the mass of all other tokens being one outcome: that of the
    whole vocabulary where k holds it all.

    Args:
        teacher: distributions at N positions.
        scores: (N, V) log-probabilities of the student.
        temperature: T, above 0.
    """
    none = teacher.tail < ROUNDED  # a root would make much of what rounding has left
    own, gone = outcomes(teacher, scores), teacher.tail.clamp(min=ROUNDED).log().masked_fill(none, -torch.inf)
    nothing = none & (own[:, -1].exp() < ROUNDED)
    rest = own[:, -1].clamp(min=math.log(ROUNDED)).masked_fill(nothing, -torch.inf)
    own = (torch.cat([own[:, :-1], rest[:, None]], 1) / temperature).log_softmax(-1)
    theirs = (torch.cat([teacher.logprobs, gone[:, None]], 1) / temperature).log_softmax(-1)
    return TopK(teacher.ids, theirs[:, :-1], theirs[:, -1].exp()), own


class AnswerKD(Objective):
    """Distils: the mean over answers of the mean `kl_top_k` per token.

    The teacher is the same model with adapters off and the text in its context, forced along the same answer. At a
    temperature T other than 1 both are `tempered`, and the divergence is multiplied by T^2, which keeps the size of its
    gradient (Hinton et al., 2015).

    Args:
        weight: its weight over time.
        first: number of tokens of each answer that count; None: all, EOS included.
        temperature: T.
    """

    teaches = True
    observes = ("kl_to_text",)
    observed_over = {"kl_to_text": ANSWER_TOKENS}

    def __init__(self, weight: Schedule, first: Count | None = None, temperature: Positive = 1.0):
        super().__init__(weight)
        self.first, self.temperature = first, temperature

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        if seen.teacher is None:
            raise RuntimeError("distillation without a teacher")
        rows = seen.rows["answer"]
        kl = loss = kl_top_k(seen.teacher, rows.scores)
        if self.temperature != 1:
            loss = self.temperature**2 * kl_outcomes(*tempered(seen.teacher, rows.scores, self.temperature))
        return ObjectiveOutput(rows.per_answer(loss, self.first).mean(), {"kl_to_text": kl.detach().mean()})
