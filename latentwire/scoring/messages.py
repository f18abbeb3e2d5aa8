"""The texts that wires send in an evaluation: one for all its questions, or one a question, and other ones instead."""

from __future__ import annotations

from collections.abc import Sequence

from latentwire.baselines.controls import Control, derangement
from latentwire.data.base import Passage
from latentwire.examples import whole_prompt_text

CONTROLS: tuple[Control, ...] = ("shuffled", "mean", "random")


def texts_of(passages: Sequence[Passage], whole: bool) -> tuple[list[str], list[int]]:
    """Return the different texts to encode, and the text of each question.

    Args:
        passages: passages with their questions.
        whole: whether the question is encoded as well.
    """
    texts: dict[str, int] = {}
    of: list[int] = []
    for p in passages:
        for q in p.questions:
            of.append(texts.setdefault(whole_prompt_text(p, q) if whole else p.text, len(texts)))
    return list(texts), of


def other_texts(passages: Sequence[Passage], seed: int) -> list[str]:
    """Return, for each of the `texts_of` whole prompts, another passage with the same question.

    A message of another passage *and* another question would show that a wire needs the question, not that it reads the
    passage. There are none where all passages are one.
    """
    distinct = list(dict.fromkeys(p.text for p in passages if p.questions))
    if len(distinct) < 2:
        return []
    first = {text: next(p for p in passages if p.text == text) for text in distinct}
    other = {text: first[distinct[i]] for text, i in zip(distinct, derangement(len(distinct), seed), strict=True)}
    found: dict[str, str] = {}
    for p in passages:
        for q in p.questions:
            found.setdefault(whole_prompt_text(p, q), whole_prompt_text(other[p.text], q))
    return list(found.values())
