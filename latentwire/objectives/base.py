"""What an objective sees and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from latentwire.lm.results import AnswerLogprobs
from latentwire.train.curriculum import Schedule

# Rows of an LM forward: questions with the right latents, with those of another text, the text itself, its end.
Kind = Literal["answer", "wrong", "text", "continuation"]
KINDS: tuple[Kind, ...] = ("answer", "wrong", "text", "continuation")


@dataclass(frozen=True)
class TopK:
    """A teacher's distribution at N positions: the k most probable tokens and the mass of all others.

    Attributes:
        ids: (N, k) long.
        logprobs: (N, k) float32.
        tail: (N,) float32, 1 - sum of the k probabilities, not negative.
    """

    ids: Tensor
    logprobs: Tensor
    tail: Tensor


@dataclass
class Seen:
    """What one language model made of one batch; only what some objective asked for.

    Attributes:
        rows: by kind; `answer` and `wrong` have the same questions and answers in the same order.
        latents: (B, M, d_z), the values that this model reads, after the codec.
        embeddings: () -> embeddings (B, T, d_model) of the texts and mask (B, T), without gradient.
        scale: RMS of this model's embeddings of real text.
        teacher: at the positions of `rows["answer"]`, in the same order.
    """

    rows: dict[Kind, AnswerLogprobs]
    latents: Tensor
    embeddings: Callable[[], tuple[Tensor, Tensor]]
    scale: float
    teacher: TopK | None = None


@dataclass
class Outcome:
    """The loss, () float32, and numbers worth observing, by name (0-d tensors without gradient)."""

    loss: Tensor
    observed: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Base. `weight` says how much the objective counts at a step; its rows are not computed where that is 0.

    Args:
        weight: see `latentwire.train.curriculum`.
    """

    needs: tuple[Kind, ...] = ("answer",)
    teaches = False  # needs `Seen.teacher`

    def __init__(self, weight: Schedule):
        super().__init__()
        self.weight = weight

    def prepare(self, models: dict[str, int], d_z: int, chunk: int) -> None:
        """Builds what the objective needs.

        Args:
            models: width of each language model by name.
            d_z: width of a latent.
            chunk: tokens per slot, at most.
        """

    def forward(self, seen: Seen, model: str) -> Outcome:
        raise NotImplementedError


def mean_nll(result: AnswerLogprobs, first: int | None = None) -> Tensor:
    """Mean over examples of the mean negative log-probability per token (of the first `first` tokens); () nats."""
    return result.nll(first).mean()


@torch.no_grad()
def first_token(result: AnswerLogprobs, k: int = 1) -> Tensor:
    """Share of the examples whose first answer token is among the k most probable; ()."""
    at = result.position == 0
    best = result.scores[at].topk(k, -1).indices
    return (best == result.tokens[at, None]).any(1).float().mean()
