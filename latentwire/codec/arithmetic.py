"""Arithmetic coding in integers: symbols to bytes at the length of their frequencies, exactly back.

Witten, Neal and Cleary, "Arithmetic coding for data compression" (Communications of the ACM 30(6), 1987), with 32 bits
of state. No number in it is a float, so what one end writes the other reads, if both have the same frequencies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

STATE = 32
_FULL, _HALF, _QUARTER = 1 << STATE, 1 << (STATE - 1), 1 << (STATE - 2)
LARGEST_TOTAL = _QUARTER  # of frequencies: each symbol keeps an interval of its own

Cumulative = npt.NDArray[np.int64]  # (n + 1,): 0, c_1, c_1 + c_2, …, total


def cumulative(weights: npt.NDArray[np.float64], total: int = 1 << 24) -> Cumulative:
    """Turn weights (n,) into cumulative integer frequencies (n + 1,) of sum `total`.

    Every symbol gets 1 and its share of the rest, rounded down; what rounding leaves goes to the likeliest. So every
    symbol can be coded, and equal weights give equal frequencies.

    Raises:
        ValueError: weights that are negative, not finite or all zero, or more symbols than `total`.
    """
    n, mass = len(weights), float(weights.sum())
    if not (np.isfinite(weights).all() and (weights >= 0).all() and mass > 0):
        raise ValueError("weights have to be finite, not negative, and not all zero")
    if not n <= total <= LARGEST_TOTAL:
        raise ValueError(f"{n} symbols and a total of {total}")
    counts = np.floor(weights / mass * (total - n)).astype(np.int64) + 1
    counts[counts.argmax()] += total - int(counts.sum())
    return np.concatenate([[0], counts.cumsum()])


class ArithmeticEncoder:
    """Writes symbols, each given as the interval [low, high) of `total` that is its own."""

    def __init__(self) -> None:
        self._low, self._high, self._pending = 0, _FULL - 1, 0
        self._bits: list[int] = []

    def write(self, low: int, high: int, total: int) -> None:
        """Write one symbol. Raises ValueError for an empty interval or too large a total."""
        if not 0 <= low < high <= total <= LARGEST_TOTAL:
            raise ValueError(f"interval [{low}, {high}) of {total}")
        width = self._high - self._low + 1
        self._high = self._low + width * high // total - 1
        self._low = self._low + width * low // total
        while True:
            if self._high < _HALF:
                self._emit(0)
            elif self._low >= _HALF:
                self._emit(1)
                self._low, self._high = self._low - _HALF, self._high - _HALF
            elif self._low >= _QUARTER and self._high < _HALF + _QUARTER:
                self._pending += 1
                self._low, self._high = self._low - _QUARTER, self._high - _QUARTER
            else:
                return
            self._low, self._high = 2 * self._low, 2 * self._high + 1

    def finish(self) -> bytes:
        """Return all bytes: the shortest that, followed by zeros without end, lie in the last interval."""
        bits = 0
        while (point := -(-self._low >> (STATE - bits)) << (STATE - bits)) > self._high:
            bits += 1
        for i in range(bits):
            self._emit(point >> (STATE - 1 - i) & 1)
        if not bits and self._pending:  # the point 0 needs no bit, but those that are pending are decided by one
            self._emit(0)
        return np.packbits(np.array(self._bits, dtype=np.uint8)).tobytes().rstrip(b"\0")

    def _emit(self, bit: int) -> None:
        self._bits += [bit, *[1 - bit] * self._pending]
        self._pending = 0


class ArithmeticDecoder:
    """Reads what an `ArithmeticEncoder` wrote: for each symbol first `target`, then `take` with its interval."""

    def __init__(self, data: bytes):
        self._bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8)).tolist()
        self._at = STATE
        self._low, self._high = 0, _FULL - 1
        self._value = int("".join(map(str, [*self._bits[:STATE], *[0] * max(0, STATE - len(self._bits))])), 2)

    def target(self, total: int) -> int:
        """Return the number in [0, total) whose symbol comes next."""
        return ((self._value - self._low + 1) * total - 1) // (self._high - self._low + 1)

    def take(self, low: int, high: int, total: int) -> None:
        """Go past the symbol with the interval [low, high) of `total`."""
        width = self._high - self._low + 1
        self._high = self._low + width * high // total - 1
        self._low = self._low + width * low // total
        while True:
            if self._high < _HALF:
                shift = 0
            elif self._low >= _HALF:
                shift = _HALF
            elif self._low >= _QUARTER and self._high < _HALF + _QUARTER:
                shift = _QUARTER
            else:
                return
            bit = self._bits[self._at] if self._at < len(self._bits) else 0
            self._at += 1
            self._low, self._high = 2 * (self._low - shift), 2 * (self._high - shift) + 1
            self._value = 2 * (self._value - shift) + bit


def encode(symbols: Sequence[int], tables: Iterable[Cumulative]) -> bytes:
    """Write symbols, each with a table of its own."""
    encoder = ArithmeticEncoder()
    for symbol, table in zip(symbols, tables, strict=True):
        encoder.write(int(table[symbol]), int(table[symbol + 1]), int(table[-1]))
    return encoder.finish()


def decode(data: bytes, tables: Iterable[Cumulative]) -> list[int]:
    """Read as many symbols as there are tables. Bytes that `encode` did not write give some symbols or other."""
    decoder, found = ArithmeticDecoder(data), []
    for table in tables:
        found.append(read_symbol(decoder, table))
    return found


def read_symbol(decoder: ArithmeticDecoder, table: Cumulative) -> int:
    """Read one symbol with its table."""
    total = int(table[-1])
    symbol = int(np.searchsorted(table, decoder.target(total), side="right")) - 1
    decoder.take(int(table[symbol]), int(table[symbol + 1]), total)
    return symbol
