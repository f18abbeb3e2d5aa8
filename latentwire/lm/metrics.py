"""Numbers of single answers, from log-probabilities alone: each is defined here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentwire.lm.results import AnswerLogprobs


@dataclass(frozen=True)
class FirstToken:
    """Describes the distribution of each answer's first token.

    Attributes:
        top1: (B,) 1.0 where the likeliest token is right, float32.
        top5: (B,) 1.0 where a right token is among the five likeliest, float32.
        entropy: (B,) in nats.
        margin: (B,) log-probability of the likeliest minus that of the second, in nats, float64: exact.
    """

    top1: Tensor
    top5: Tensor
    entropy: Tensor
    margin: Tensor


@torch.no_grad()
def first_token(out: AnswerLogprobs, right: Tensor | None = None) -> FirstToken:
    """Judge the first position of each answer.

    Args:
        out: the scored answers.
        right: (B, G) ids that count as right, -1 where an example has fewer: the first tokens of all references, as
            evaluations count. None: the scored answer's own first token alone, as training and validation count. The
            two differ where a question has several references.
    """
    at = out.position == 0
    scores = out.scores[at]
    top = scores.topk(min(5, scores.shape[1]), -1)
    right = out.tokens[at, None] if right is None else right.to(scores.device)
    hit = (top.indices[:, :, None] == right[:, None]).any(2)
    # -inf times 0 is NaN, and a probability of 0 adds nothing
    entropy = -(scores.exp() * scores.clamp(min=-1e4)).sum(-1)
    best = top.values.double()
    return FirstToken(hit[:, 0].float(), hit.any(1).float(), entropy, best[:, 0] - best[:, 1])


def kl(teacher: Tensor, out: AnswerLogprobs) -> Tensor:
    """Return KL(teacher ‖ model) in nats per answer token, the mean over each answer; (B,).

    Args:
        teacher: (N, V) the teacher's log-probabilities, at the positions of `out.scores`.
        out: the scored answers.
    """
    teacher = teacher.to(out.scores.device)
    return out.per_answer((teacher.exp() * (teacher - out.scores)).sum(-1))
