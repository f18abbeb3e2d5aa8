"""SQuAD v1.1's official scores, rule for rule (Rajpurkar et al. 2016, `evaluate-v1.1.py`)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)


def normalize(text: str) -> str:
    """Turn into lower case, then drop ASCII punctuation, then articles, then leave single spaces."""
    kept = "".join(c for c in text.lower() if c not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(prediction: str, reference: str) -> float:
    """Return 1.0 where both are the same after `normalize`, else 0.0."""
    return float(normalize(prediction) == normalize(reference))


def f1(prediction: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over the bags of normalised words; 0 where none is shared."""
    predicted, gold = normalize(prediction).split(), normalize(reference).split()
    shared = sum((Counter(predicted) & Counter(gold)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def contains(prediction: str, reference: str) -> float:
    """Return 1.0 where the normalised reference stands in the normalised prediction as whole words, else 0.0.

    A reference of which nothing is left after `normalize` is in every prediction.
    """
    return float(within(reference, normalize(prediction)))


def within(reference: str, normalized: str) -> bool:
    """Tell whether the normalised reference stands in a text that is normalised already, as `contains` does."""
    wanted = normalize(reference)
    return f" {wanted} " in f" {normalized} " or not wanted


def best(score: Callable[[str, str], float], prediction: str, references: Sequence[str]) -> float:
    """Score against the reference that suits the prediction best.

    Raises:
        ValueError: no references.
    """
    return max(score(prediction, reference) for reference in references)
