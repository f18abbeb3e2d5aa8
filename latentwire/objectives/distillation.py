"""Distillation from the same language model reading the text."""

from __future__ import annotations

import torch
from torch import Tensor

from callbacks.ranges import Count
from latentwire.objectives.base import ANSWER_TOKENS, Objective, ObjectiveOutput, Seen, TopK
from latentwire.train.curriculum import Schedule

TINY = 1e-7


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
    student = scores.gather(1, teacher.ids)
    rest = (1 - student.exp().sum(-1)).clamp(min=TINY)
    p = teacher.logprobs.exp()
    inside = (p * (teacher.logprobs - student)).sum(-1)
    tail = torch.where(teacher.tail > 0, teacher.tail * (teacher.tail.clamp(min=TINY).log() - rest.log()), 0.0)
    return inside + tail


class AnswerKD(Objective):
    """Distils: the mean over answers of the mean `kl_top_k` per token.

    The teacher is the same model with adapters off and the text in its context, forced along the same answer.

    Args:
        weight: its weight over time.
        first: number of tokens of each answer that count; None: all, EOS included.
    """

    teaches = True
    observes = ("kl_to_text",)
    observed_over = {"kl_to_text": ANSWER_TOKENS}

    def __init__(self, weight: Schedule, first: Count | None = None):
        super().__init__(weight)
        self.first = first

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        if seen.teacher is None:
            raise RuntimeError("distillation without a teacher")
        rows = seen.rows["answer"]
        kl = kl_top_k(seen.teacher, rows.scores)
        return ObjectiveOutput(rows.per_answer(kl, self.first).mean(), {"kl_to_text": kl.detach().mean()})
