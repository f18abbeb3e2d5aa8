"""SQuAD v1.1's official scores, rule for rule (Rajpurkar et al. 2016, `evaluate-v1.1.py`)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)


def normalize(text: str) -> str:
    """Lower case, then without ASCII punctuation, then without articles, then with single spaces."""
    kept = "".join(c for c in text.lower() if c not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(prediction: str, reference: str) -> float:
    """1.0 where both are the same after `normalize`, else 0.0."""
    return float(normalize(prediction) == normalize(reference))


def f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the bags of normalised words; 0 where none is shared."""
    predicted, gold = normalize(prediction).split(), normalize(reference).split()
    shared = sum((Counter(predicted) & Counter(gold)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def best(score: Callable[[str, str], float], prediction: str, references: Sequence[str]) -> float:
    """The score against the reference that suits the prediction best.

    Raises:
        ValueError: no references.
    """
    return max(score(prediction, reference) for reference in references)


@dataclass(frozen=True)
class SquadScore:
    """`em` and `f1` in percent over `questions` questions, of which `missing` had no prediction and score 0."""

    em: float
    f1: float
    questions: int
    missing: int


def evaluate(references: Mapping[str, Sequence[str]], predictions: Mapping[str, str]) -> SquadScore:
    """Scores predictions (question id -> text) against all references (question id -> texts).

    Raises:
        ValueError: no questions.
    """
    if not references:
        raise ValueError("no questions to score")
    found = [(predictions[q], answers) for q, answers in references.items() if q in predictions]
    em = sum(best(exact_match, p, answers) for p, answers in found)
    overlap = sum(best(f1, p, answers) for p, answers in found)
    n = len(references)
    return SquadScore(100 * em / n, 100 * overlap / n, n, n - len(found))
