"""Damage to files: bits, cuts and exchanges, as disks, kills and hands leave them."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], None]


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Change one bit of a file, whose size and permissions stay."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def flipped(share: float) -> Damage:
    """Return what changes a bit at a share of the length of a file."""
    return lambda path: flip(path, int(share * (path.stat().st_size - 1)), int(8 * share) % 8)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def halved(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zeroed(path: Path) -> None:
    """Leave a file as a power failure does: its length, and nothing in it."""
    path.write_bytes(bytes(path.stat().st_size))


def foreign(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(5000))


def replaced_by(other: Path) -> Damage:
    return lambda path: shutil.copy(other, path) and None


DAMAGE: dict[str, Damage] = {
    "a bit at the beginning": flipped(0.0),
    "a bit in the middle": flipped(0.5),
    "a bit near the end": flipped(0.97),
    "the last bit": flipped(1.0),
    "empty": emptied,
    "half of it": halved,
    "zeros": zeroed,
    "foreign": foreign,
}
