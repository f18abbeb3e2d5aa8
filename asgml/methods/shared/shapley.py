"""Lists the sets of modalities that Shapley values and other sums over subsets need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import factorial


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all sets of one or more modalities, small ones first, each in the order of `names`."""
    return [subset for size in range(1, len(names) + 1) for subset in combinations(names, size)]


def coalitions(names: Sequence[str]) -> Iterator[tuple[str, frozenset[str], float]]:
    """Yield every modality m, with every set S of the others and its Shapley weight `|S|! (N - |S| - 1)! / N!`.

    The Shapley value of m in a game v is the sum of `weight * (v(S + m) - v(S))`.
    """
    n = len(names)
    for m in names:
        for others in [(), *subsets([k for k in names if k != m])]:
            yield m, frozenset(others), factorial(len(others)) * factorial(n - len(others) - 1) / factorial(n)
