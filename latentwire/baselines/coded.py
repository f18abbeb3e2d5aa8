"""Rivals in bytes: the whole text in as few as possible, and what of it fits into the wire's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from callbacks.errors import UserError
from callbacks.ranges import Bounds, Count, Steps
from latentwire.baselines.base import Baseline, Sent, contexts
from latentwire.baselines.text_codes import FRAME, TextCoder, ZstdCoder
from latentwire.baselines.training import TrainingBudget
from latentwire.codec.bits import width_of
from latentwire.data.base import Passage, Question
from latentwire.examples import context_ids
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix

Ids = tuple[int, ...]
DictionarySize = Annotated[int, Bounds("256 bytes to 16 MiB (16777216)", ge=256, le=2**24)]  # zstd makes none below 256
_CODERS: WeakKeyDictionary[FrozenLM, TextCoder] = WeakKeyDictionary()
_SIZES: WeakKeyDictionary[FrozenLM, dict[Ids, int]] = WeakKeyDictionary()


def coder_of(lm: FrozenLM) -> TextCoder:
    """Return the one coder of a model."""
    return _CODERS.setdefault(lm, TextCoder(lm))


def coded_bytes(lm: FrozenLM, ids: Ids) -> int:
    """Return the bytes of ids coded by the model, without a frame; each text is coded once."""
    known = _SIZES.setdefault(lm, {})
    if ids not in known:
        known[ids] = len(coder_of(lm).encode(ids))
    return known[ids]


class LMCodedText(Baseline):
    """Sends the whole text, coded by the reader itself: F1 of the text in the fewest bytes that the reader knows of.

    Args:
        verify: number of texts that are decoded again, which must give the same ids.
    """

    name = "text_lm_coded"
    budgeted = False
    remark = "the whole text, arithmetic-coded with the reader's own probabilities: lossless"

    def __init__(self, verify: Steps = 2):
        self.verify = verify
        self._verified: set[tuple[str, Ids]] = set()

    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        return Prefix(text_ids=contexts(lm, passages, questions))

    def sent(self, lm: FrozenLM, ids: Ids) -> Sent:
        if len(self._verified) < self.verify and (lm.name, ids) not in self._verified:
            self._verified.add((lm.name, ids))
            coder = coder_of(lm)
            if tuple(coder.unpack(coder.pack(ids))) != ids:
                raise RuntimeError(
                    f"{lm.name} does not decode the text that it has coded: its logits are not repeatable"
                )
        return Sent(coded_bytes(lm, ids), FRAME)


class ByteBudget(Baseline):
    """Gives the longest beginning of the text that fits into the wire's message; base of those that do.

    The message is framed as the wire's: header and checksum take the same bytes.
    """

    def __init__(self) -> None:
        self._room: dict[tuple[str, int], int] = {}

    def allow(self, lm: FrozenLM, slots: int, message_bytes: float) -> None:
        self._room[lm.name, slots] = max(0, int(message_bytes) - FRAME)

    def room(self, lm: FrozenLM, slots: int) -> int:
        """Return the bytes of a payload. Raises UserError where there is no wire."""
        if (lm.name, slots) not in self._room:
            remedy = f"leave out ~baselines.{self.name}"
            raise UserError(f"baselines.{self.name}", "no wire beside it", "a message whose bytes it may take", remedy)
        return self._room[lm.name, slots]

    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        room = self.room(lm, slots)
        return Prefix(text_ids=[self.fitting(lm, p, q, room) for p, q in zip(passages, questions, strict=True)])

    def fitting(self, lm: FrozenLM, passage: Passage, question: Question, room: int) -> Ids:
        """Return the ids of the longest beginning whose payload takes at most `room` bytes."""
        raise NotImplementedError


class IdByteBudget(ByteBudget):
    """Gives as many token ids as fit into the wire's message at ceil(log2 vocabulary) bits each."""

    name = "id_byte_budget"
    remark = "the token ids that fit into the wire's message"

    def fitting(self, lm: FrozenLM, passage: Passage, question: Question, room: int) -> Ids:
        return context_ids(lm, passage, question)[: 8 * room // width_of(lm.vocab_size)]

    def sent(self, lm: FrozenLM, ids: Ids) -> Sent:
        return replace(super().sent(lm, ids), frame=FRAME)


class LMByteBudget(ByteBudget):
    """Gives as many tokens as fit into the wire's message when the reader itself codes them."""

    name = "lm_byte_budget"
    remark = "the beginning of the text that fits into the wire's message, coded by the reader itself"

    def __init__(self) -> None:
        super().__init__()
        self._fits: dict[tuple[str, Ids, int], Ids] = {}

    def fitting(self, lm: FrozenLM, passage: Passage, question: Question, room: int) -> Ids:
        ids = context_ids(lm, passage, question)
        key = lm.name, ids, room
        if key not in self._fits:
            n = len(ids)
            if coded_bytes(lm, ids) > room:
                total, n = 0.0, 0
                for bits in coder_of(lm).bits(ids):
                    total += bits
                    if total > 8 * room:
                        break
                    n += 1
            while n and coded_bytes(lm, ids[:n]) > room:
                n -= 1
            self._fits[key] = ids[:n]
        return self._fits[key]

    def sent(self, lm: FrozenLM, ids: Ids) -> Sent:
        return Sent(coded_bytes(lm, ids), FRAME)


class _Dictionary(Baseline):
    """Has a zstd dictionary of training texts, and remembers the bytes of the texts that it has given."""

    track = "trained"

    def __init__(self, texts: Count = 2000, dictionary: DictionarySize = 16384):
        self.texts, self.dictionary = texts, dictionary
        self._coder: ZstdCoder | None = None
        self._bytes: dict[tuple[str, Ids], int] = {}

    def fit(self, lm: FrozenLM, budget: TrainingBudget | None, slots: int, folder: Path | None = None) -> None:
        if self._coder is None:
            train = () if budget is None else budget.train
            self._coder = ZstdCoder([train[i].text for i in range(min(self.texts, len(train)))], self.dictionary)

    def coder(self) -> ZstdCoder:
        """Return the coder. Raises UserError before `fit`."""
        if self._coder is None:
            raise UserError(f"baselines.{self.name}", "not fitted", "a dictionary", "call fit first")
        return self._coder

    def told(self, lm: FrozenLM, slots: int) -> dict[str, Any]:
        return {"questions_seen": 0}

    def give(self, lm: FrozenLM, passage: Passage, question: Question, text: str) -> Ids:
        """Return the ids of a text and remember its bytes."""
        ids = context_ids(lm, replace(passage, text=text), question) if text else ()
        self._bytes[lm.name, ids] = len(self.coder().encode(text))
        return ids

    def sent(self, lm: FrozenLM, ids: Ids) -> Sent:
        return Sent(self._bytes[lm.name, ids], FRAME)


class ZstdText(_Dictionary):
    """Sends the whole text by zstd with a dictionary.

    Args:
        texts: number of training texts that the dictionary is trained on.
        dictionary: bytes of the dictionary at most; it is not sent, as a model is not.
    """

    name = "text_zstd"
    budgeted = False
    remark = "the whole text by zstd with a dictionary of training texts: lossless"

    def __init__(self, texts: Count = 2000, dictionary: DictionarySize = 16384):
        super().__init__(texts, dictionary)

    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        return Prefix(text_ids=[self.give(lm, p, q, p.text) for p, q in zip(passages, questions, strict=True)])


class ZstdByteBudget(_Dictionary, ByteBudget):
    """Gives as many words as fit into the wire's message by zstd with a dictionary.

    Args:
        texts: number of training texts that the dictionary is trained on.
        dictionary: bytes of the dictionary at most; it is not sent, as a model is not.
    """

    name = "zstd_byte_budget"
    remark = "the words that fit into the wire's message by zstd with a dictionary of training texts"

    def __init__(self, texts: Count = 2000, dictionary: DictionarySize = 16384):
        ByteBudget.__init__(self)
        _Dictionary.__init__(self, texts, dictionary)

    def fitting(self, lm: FrozenLM, passage: Passage, question: Question, room: int) -> Ids:
        words, coder = passage.text.split(" "), self.coder()
        low, high = 0, len(words)  # the bytes of a text's beginnings grow, but for a few bytes of luck
        while low < high:
            middle = (low + high + 1) // 2
            if len(coder.encode(" ".join(words[:middle]))) <= room:
                low = middle
            else:
                high = middle - 1
        return self.give(lm, passage, question, " ".join(words[:low]))
