"""What every baseline offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from latentwire.codec.bits import packed_bytes, width_of
from latentwire.data.base import Passage, Question
from latentwire.examples import context_ids
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import Prompt

if TYPE_CHECKING:
    from latentwire.baselines.training import TrainingBudget

Track = Literal["frozen", "trained"]


@dataclass(frozen=True)
class Sent:
    """Counts bytes of one text: what tells it from others, and the frame around that (header, checksum)."""

    payload: int
    frame: int = 0


class Baseline:
    """Gives a language model something else to read in place of the latents; base of all baselines.

    Attributes:
        name: name of its row in tables.
        track: `trained` where it has seen training passages (`fit`), else `frozen`.
        equal_lengths: whether a batch must have contexts of one length, as embeddings carry no mask.
        adapts: whether an adapted model reads it with its adapter on, in a second row; the text and its budgets do.
        tracks: the tracks of wires (`wire.track`) that it may stand beside.
        budgeted: whether what it gives depends on M, or on the bytes of the wire's messages.
        bare: whether it cannot be fitted on a model with an adapter.
        fair: whether its row is an honest comparison.
        remark: what a reader of the table must know.
    """

    name: ClassVar[str] = ""
    track: ClassVar[Track] = "frozen"
    equal_lengths: ClassVar[bool] = False
    adapts: ClassVar[bool] = False
    tracks: ClassVar[tuple[str, ...]] = ("question_text", "whole_prompt")
    budgeted: ClassVar[bool] = True
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
        """Return the bytes to send per passage; None: those of the text that `prefix` returns, see `sent`."""
        return None

    def sent(self, lm: FrozenLM, ids: tuple[int, ...]) -> Sent:
        """Return the bytes that send a text of these ids: ceil(log2 vocabulary) bits each, without a frame."""
        return Sent(packed_bytes(len(ids), width_of(lm.vocab_size)))

    def allow(self, lm: FrozenLM, slots: int, message_bytes: float) -> None:
        """Take the mean number of bytes of the wire's messages, for baselines that have as many."""
        return None

    def fit(self, lm: FrozenLM, budget: TrainingBudget | None, slots: int, folder: Path | None = None) -> None:
        """Learn from training passages; most baselines have nothing to learn.

        Args:
            lm: the model that reads.
            budget: what there is to learn from; None: nothing.
            slots: M, the number of places that the wire has.
            folder: where what is learned is kept, and read if it is there; None: nowhere.
        """
        return None

    def told(self, lm: FrozenLM, slots: int) -> dict[str, Any]:
        """Return further numbers of its row, e.g. `questions_seen` in training."""
        return {}


def contexts(lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question]) -> list[tuple[int, ...]]:
    """Return the ids of each context as the one renderer gives them."""
    return [context_ids(lm, p, q) for p, q in zip(passages, questions, strict=True)]
