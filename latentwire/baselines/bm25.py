"""The sentence that suits the question best, at M tokens."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from latentwire.baselines.base import Baseline
from latentwire.data.base import Passage, Question
from latentwire.examples import context_ids
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix

_END = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"\w+")


def sentences(text: str) -> list[str]:
    """Split a text behind full stops, exclamation and question marks that white space follows."""
    return [s for s in _END.split(text.strip()) if s]


def bm25(query: str, documents: Sequence[str], k1: float = 1.2, b: float = 0.75) -> list[float]:
    """Score each document by Okapi BM25 (Robertson & Zaragoza, 2009, Eq. 3.15), over lower-case words.

    The inverse document frequency is log(1 + (n - df + 0.5) / (df + 0.5)), which is never negative: among the few
    sentences of a passage a word of most of them would otherwise count against its sentence.
    """
    bags = [Counter(w.lower() for w in _WORD.findall(d)) for d in documents]
    mean = sum(bag.total() for bag in bags) / max(1, len(bags)) or 1.0
    scores = [0.0] * len(bags)
    for word in {w.lower() for w in _WORD.findall(query)}:
        df = sum(word in bag for bag in bags)
        idf = math.log(1 + (len(bags) - df + 0.5) / (df + 0.5))
        for i, bag in enumerate(bags):
            tf = bag[word]
            scores[i] += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * bag.total() / mean))
    return scores


class BestSentence(Baseline):
    """Gives the context's best sentence by BM25 with the question, cut at M tokens; the first of equals."""

    name = "best_sentence"
    adapts = True
    remark = "its sender knows the question, which a wire's does not"

    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        kept = []
        for passage, question in zip(passages, questions, strict=True):
            found = sentences(passage.text)
            scores = bm25(question.text, found)
            best = found[scores.index(max(scores))] if found else ""
            kept.append(context_ids(lm, replace(passage, text=best), question)[:slots])
        return Prefix(text_ids=kept)
