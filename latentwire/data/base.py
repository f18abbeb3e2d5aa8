"""What every corpus yields: passages with questions about them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Split = Literal["train", "val", "test"]
QUESTION_WORDS = ("what", "who", "when", "where", "which", "how", "why")


@dataclass(frozen=True)
class Question:
    """Asks about one passage.

    Args:
        id: name that is unique within the corpus.
        text: the question alone, without any template around it.
        answers: the accepted answers, at least one; the first is the one to train on.
        kind: what is asked for (the relation, where the corpus knows it): tables break down by it.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Passage:
    """Holds a text to send and the questions it answers.

    Args:
        id: name that is unique within the corpus.
        text: the context.
        questions: everything that may be asked about it.
        group: name of the passages that are resampled together (bootstrap): the article, or the passage itself.
        bits: entropy of the facts in the text, in bits, where the generator knows it; None for real text.
    """

    id: str
    text: str
    questions: tuple[Question, ...]
    group: str
    bits: float | None


class Corpus(Protocol):
    """Yields passages; a split may be lazy and very long.

    A corpus of files may have a method `told`, which returns in words what its splits hold and what was left out.
    """

    def split(self, name: Split) -> Sequence[Passage]:
        """Return the passages of a split."""
        ...


def question_kind(text: str) -> str:
    """Return the first question word in a question, `other` where there is none."""
    words = text.lower().replace("?", " ").split()
    return next((w for w in words if w in QUESTION_WORDS), "other")


def ranked(names: Iterable[str], seed: int) -> list[str]:
    """Return names in the order in which they are dealt to splits; a name's rank depends on it and the seed alone."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def spread(n: int, most: int) -> list[int]:
    """Return at most so many of 0 … n - 1, evenly, first and last among them."""
    if n <= most:
        return list(range(n))
    if most == 1:
        return [0]
    return sorted({round(i * (n - 1) / (most - 1)) for i in range(most)})
