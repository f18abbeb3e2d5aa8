"""What every baseline offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from callbacks.errors import UserError
from latentwire.data.base import Passage, Question
from latentwire.examples import context_ids
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import Prompt

Track = Literal["frozen", "trained"]


class Baseline:
    """Base: what a language model reads in place of the latents, for a batch of (passage, question).

    Attributes:
        name: of its row in tables.
        track: `trained` ones have seen training passages (`fit`).
        equal_lengths: a batch must have contexts of one length, as embeddings carry no mask.
        fair: False marks its row as no honest comparison.
        remark: what a reader of the table must know.
    """

    name: ClassVar[str] = ""
    track: ClassVar[Track] = "frozen"
    equal_lengths: ClassVar[bool] = False
    fair: ClassVar[bool] = True
    remark: ClassVar[str] = ""

    def prefix(
        self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int
    ) -> tuple[Prefix, list[str | None]]:
        """What stands between head and question, and per example the text of it, None where it is no text.

        Args:
            passages, questions: B each; question i is asked about passage i.
            slots: M, the number of places that the wire has.
        """
        raise NotImplementedError

    def follows(self, prompt: Prompt) -> tuple[int, ...]:
        """What the model reads as text after the prefix: the whole question, unless a baseline says otherwise."""
        return prompt.question

    def message_bytes(self, lm: FrozenLM, slots: int) -> int | None:
        """Bytes to send per passage; None: the ids of the text that `prefix` returns, packed."""
        return None

    def fit(self, lm: FrozenLM, train: Sequence[Passage], slots: int, steps: int) -> None:
        """Learns from training passages; most baselines have nothing to learn. Kept per model and M."""
        return None


def contexts(lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question]) -> list[tuple[int, ...]]:
    """Ids of each context as the one renderer gives them."""
    return [context_ids(lm, p, q) for p, q in zip(passages, questions, strict=True)]


def need_training(name: str, train: Sequence[Passage]) -> None:
    """Raises UserError where there is nothing to learn from."""
    if not train:
        raise UserError(
            f"baseline {name}", "no training passages", "passages of the train split", "give the evaluator `train`"
        )
