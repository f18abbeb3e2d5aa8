"""What every baseline offers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Generic, Literal, TypeVar

from callbacks.errors import UserError
from latentwire.data.base import Passage, Question
from latentwire.examples import context_ids
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import Prompt

Track = Literal["frozen", "trained"]
T = TypeVar("T")


class Baseline:
    """Gives a language model something else to read in place of the latents; base of all baselines.

    Attributes:
        name: name of its row in tables.
        track: `trained` where it has seen training passages (`fit`), else `frozen`.
        equal_lengths: whether a batch must have contexts of one length, as embeddings carry no mask.
        adapts: whether an adapted model reads it with its adapter on, in a second row; the text and its budgets do.
        tracks: the tracks of wires (`wire.track`) that it may stand beside.
        bare: whether it cannot be fitted on a model with an adapter.
        fair: whether its row is an honest comparison.
        remark: what a reader of the table must know.
    """

    name: ClassVar[str] = ""
    track: ClassVar[Track] = "frozen"
    equal_lengths: ClassVar[bool] = False
    adapts: ClassVar[bool] = False
    tracks: ClassVar[tuple[str, ...]] = ("question_text", "whole_prompt")
    bare: ClassVar[bool] = False
    fair: ClassVar[bool] = True
    remark: ClassVar[str] = ""

    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        """Return what stands between head and question.

        Args:
            lm: the model that reads.
            passages: B passages.
            questions: B questions; question i is asked about passage i.
            slots: M, the number of places that the wire has.
        """
        raise NotImplementedError

    def follows(self, prompt: Prompt) -> tuple[int, ...]:
        """Return what is read as text after the prefix: the whole question, unless a baseline says otherwise."""
        return prompt.question

    def message_bytes(self, lm: FrozenLM, slots: int) -> int | None:
        """Return the bytes to send per passage; None: the ids of the text that `prefix` returns, packed."""
        return None

    def fit(self, lm: FrozenLM, train: Sequence[Passage], slots: int, steps: int, folder: Path | None = None) -> None:
        """Learn from training passages; most baselines have nothing to learn.

        Args:
            lm: the model that reads.
            train: the passages.
            slots: M, the number of places that the wire has.
            steps: number of steps.
            folder: of the run, not of one evaluation of it, for what is to be learned once; None: nowhere.
        """
        return None


class LearnedBaseline(Baseline, Generic[T]):
    """Learns from training passages, and keeps what it has learned per model and M."""

    track = "trained"

    def __init__(self) -> None:
        self._learned: dict[tuple[str, int], T] = {}

    def fit(self, lm: FrozenLM, train: Sequence[Passage], slots: int, steps: int, folder: Path | None = None) -> None:
        if not train:
            raise UserError(
                f"baselines.{self.name}",
                "no training passages",
                "passages of the train split",
                "set evaluation.fit_passages=2000",
            )
        self._learned[lm.name, slots] = self.learn(lm, train, slots, steps)

    def learn(self, lm: FrozenLM, train: Sequence[Passage], slots: int, steps: int) -> T:
        """Learn from training passages in so many steps."""
        raise NotImplementedError

    def learned(self, lm: FrozenLM, slots: int) -> T:
        """Return what `fit` has learned. Raises UserError where it has not been called for this model and M."""
        if (lm.name, slots) not in self._learned:
            expected = f"fit for {lm.name} at M={slots}"
            raise UserError(f"baselines.{self.name}", "not fitted", expected, "call fit first")
        return self._learned[lm.name, slots]


def contexts(lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question]) -> list[tuple[int, ...]]:
    """Return the ids of each context as the one renderer gives them."""
    return [context_ids(lm, p, q) for p, q in zip(passages, questions, strict=True)]
