"""Arithmetic coding: exact for any frequencies, as short as they say, and nothing else in between."""

from __future__ import annotations

import math

import numpy as np
import pytest

from latentwire.codec.arithmetic import ArithmeticEncoder, cumulative, decode, encode


def random_tables(draw: np.random.Generator, length: int) -> list[np.ndarray]:
    """Tables of every kind: flat, peaked until one symbol has all but n - 1 of the total, few and many symbols."""
    tables = []
    for _ in range(length):
        n = int(draw.integers(1, 300))
        weights = draw.random(n) ** draw.choice([0.0, 1.0, 40.0]) + draw.choice([0.0, 1e-12])
        weights[draw.integers(n)] += draw.choice([0.0, 1.0, 1e9])
        tables.append(cumulative(weights + 1e-300, 1 << int(draw.integers(9, 31))))
    return tables


@pytest.mark.parametrize("seed", range(60))
def test_any_symbols_under_any_frequencies_come_back(seed: int) -> None:
    draw = np.random.default_rng(seed)
    tables = random_tables(draw, int(draw.integers(0, 120)))
    symbols = [int(draw.integers(len(t) - 1)) for t in tables]
    if seed % 2:  # likely symbols, as real messages have
        symbols = [int(np.diff(t).argmax()) for t in tables]
    data = encode(symbols, tables)
    assert decode(data, tables) == symbols
    bits = sum(-math.log2((t[s + 1] - t[s]) / t[-1]) for s, t in zip(symbols, tables, strict=True))
    assert len(data) <= math.ceil((bits + 2) / 8), "at most two bits more than the frequencies say"


def test_the_interval_around_the_middle_is_resolved() -> None:
    """Symbols that keep the interval across one half: bits stay pending until a symbol decides."""
    table = np.array([0, 1, 3, 4])
    for last in range(3):
        for length in (1, 2, 40, 200):
            symbols = [1] * length + [last]
            assert decode(encode(symbols, [table] * len(symbols)), [table] * len(symbols)) == symbols
            assert decode(encode(symbols[:-1], [table] * length), [table] * length) == symbols[:-1]


def test_frequencies_are_whole_equal_for_equal_weights_and_never_zero() -> None:
    table = cumulative(np.array([0.5, 0.0, 0.25, 0.25]), 1 << 10)
    counts = np.diff(table)
    assert counts.sum() == 1 << 10
    assert counts.min() >= 1
    assert counts[2] == counts[3]
    assert counts[0] == pytest.approx(512, abs=4)
    for weights in ([0.0, 0.0], [1.0, -1.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="finite"):
            cumulative(np.array(weights))
    with pytest.raises(ValueError, match="symbols"):
        cumulative(np.ones(9), 8)
    for interval in ((3, 3, 8), (-1, 2, 8), (0, 9, 8), (0, 1, 1 << 31)):
        with pytest.raises(ValueError, match="interval"):
            ArithmeticEncoder().write(*interval)
