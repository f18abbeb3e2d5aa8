"""What an objective needs of a batch, what it sees of it, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from callbacks.errors import UserError
from latentwire.lm.results import AnswerLogprobs
from latentwire.train.curriculum import Schedule

# Rows of an LM forward: questions with the right latents, with those of another text, the text itself, its end.
RowKind = Literal["answer", "wrong", "text", "continuation"]


@dataclass(frozen=True)
class Needs:
    """Says what objectives ask of a batch.

    Args:
        kinds: kinds of rows to make.
        cue: the question that asks for the text (`text` rows); None: nobody asks.
        words: bounds of the share of a text's words that is encoded for a continuation; None: nothing is continued.
        context: whether the contexts come as ids as well.
        whole_prompt: whether the question is encoded with its context and only the cue is text.
    """

    kinds: frozenset[RowKind] = frozenset({"answer"})
    cue: str | None = None
    words: tuple[float, float] | None = None
    context: bool = False
    whole_prompt: bool = False


def together(needs: Mapping[str, Needs], whole_prompt: bool = False) -> Needs:
    """Merge the needs of all objectives of a run, by their names.

    Raises:
        UserError: two cues or two shares of words, or needs that a wire of whole prompts cannot meet.
    """
    found = Needs(frozenset(), whole_prompt=whole_prompt)
    for name, one in needs.items():
        if whole_prompt and (one.context or not one.kinds <= {"answer", "wrong"}):
            raise UserError(
                "wire.track=whole_prompt",
                f"objectives.{name}, which is about the text alone",
                "objectives on answers",
                f"add ~objectives.{name}, or set wire.track=question_text",
            )
        if (one.cue and found.cue) or (one.words and found.words):
            raise UserError(f"objectives.{name}", "a second one of its kind", "one of each", f"add ~objectives.{name}")
        found = replace(
            found,
            kinds=found.kinds | one.kinds,
            cue=found.cue or one.cue,
            words=found.words or one.words,
            context=found.context or one.context,
        )
    return found


@dataclass(frozen=True)
class TopK:
    """Holds a teacher's distribution at N positions: the k most probable tokens and the mass of all others.

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
    """Holds what one language model made of one batch; only what some objective asked for.

    Attributes:
        rows: scored rows by kind; `answer` and `wrong` have the same questions and answers in the same order.
        latents: (B, M, d_z) values that this model reads, after the codec.
        embeddings: () -> embeddings (B, T, d_model) of the texts and mask (B, T), without gradient.
        scale: RMS of this model's embeddings of real text.
        teacher: distributions at the positions of `rows["answer"]`, in the same order.
    """

    rows: dict[RowKind, AnswerLogprobs]
    latents: Tensor
    embeddings: Callable[[], tuple[Tensor, Tensor]]
    scale: float
    teacher: TopK | None = None


@dataclass
class ObjectiveOutput:
    """Holds the loss, () float32, and numbers worth observing by name (0-d tensors without gradient)."""

    loss: Tensor
    observed: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Says what latents are trained for; its rows are not computed at a step where it weighs 0.

    Attributes:
        needs: what it needs of a batch.
        teaches: whether it needs `Seen.teacher`.

    Args:
        weight: its weight over time, see `latentwire.train.curriculum`.
    """

    needs = Needs()
    teaches = False

    def __init__(self, weight: Schedule):
        super().__init__()
        self.weight = weight

    def prepare(self, models: dict[str, int], d_z: int, chunk: int) -> None:
        """Build parameters of its own, if it has any.

        Args:
            models: width of each language model by name.
            d_z: width of a latent.
            chunk: largest number of tokens per slot.
        """

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        """Return the loss on what `model` made of a batch."""
        raise NotImplementedError
