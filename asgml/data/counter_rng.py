"""Counter-based randomness: every draw is a hash of who asks, so that order, workers and batches cannot change it.

The mixer is splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
Unlike NumPy's generators its streams are fixed for ever: splits and pairings do not move with a NumPy release.
"""

from __future__ import annotations

import zlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def splitmix64(x: np.ndarray) -> np.ndarray:
    """Return one step of splitmix64 on uint64 of any shape; a bijection of the 64-bit integers."""
    z = np.atleast_1d(np.asarray(x, dtype=np.uint64)) + _GOLDEN  # arrays wrap silently, scalars would warn
    z = (z ^ (z >> np.uint64(30))) * _A
    z = (z ^ (z >> np.uint64(27))) * _B
    z = z ^ (z >> np.uint64(31))
    return z.reshape(np.shape(x))


def word(value: int | str) -> np.ndarray:
    """Return a seed, number or name as one uint64 of shape (1,). Negative numbers wrap; names go by CRC-32."""
    number = zlib.crc32(value.encode()) if isinstance(value, str) else int(value)
    return np.array([number & _MASK], dtype=np.uint64)


def sample_keys(seed: int, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return uint64 keys (b,), one per sample, each from its (seed, epoch, index) alone."""
    key = splitmix64(splitmix64(word(seed)) ^ np.asarray(epochs).astype(np.uint64))
    return splitmix64(key ^ np.asarray(indices).astype(np.uint64))


def uniform(keys: np.ndarray, draw: int | str) -> np.ndarray:
    """Return a float64 in [0, 1) per key, (b,); `draw` numbers or names the independent draws of one sample."""
    return (splitmix64(keys ^ splitmix64(word(draw))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(keys: np.ndarray, draw: int | str, low: int, high: int) -> np.ndarray:
    """Return an int64 in [low, high) per key, (b,); both ends as in `range`, `draw` as in `uniform`."""
    return low + np.floor(uniform(keys, draw) * (high - low)).astype(np.int64)


def shuffled(n: int, seed: int, name: str = "") -> np.ndarray:
    """Return a permutation of range(n), int64, that depends on `seed` and `name` alone."""
    return np.argsort(uniform(sample_keys(seed, np.zeros(n, np.uint64), np.arange(n)), name), kind="stable")
