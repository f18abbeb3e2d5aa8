"""Unsigned integers of a few bits, packed without gaps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from latentwire.codec.base import bad_payload


def width_of(symbols: int) -> int:
    """Return the bits of a code that takes `symbols` values."""
    return max((symbols - 1).bit_length(), 1)


def packed_bytes(count: int, width: int) -> int:
    """Return the bytes of `count` codes of `width` bits; the last byte is filled with zero bits."""
    return -(-count * width // 8)


def pack(codes: npt.NDArray[np.int64], width: int) -> bytes:
    """Pack integers (n,) in [0, 2^width) into bytes, most significant bit first."""
    if codes.size and (codes.min() < 0 or codes.max() >> width):
        raise ValueError(f"codes do not fit {width} bits")
    shifts = np.arange(width - 1, -1, -1, dtype=np.int64)
    bits = (codes.reshape(-1, 1) >> shifts) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def unpack(data: bytes, width: int, count: int) -> npt.NDArray[np.int64]:
    """Undo `pack`. Raises UserError when the filling bits are not zero."""
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    if bits[count * width :].any():
        raise bad_payload("filling bits that are not zero", f"{count} codes of {width} bits")
    weights = 1 << np.arange(width - 1, -1, -1, dtype=np.int64)
    return bits[: count * width].reshape(count, width).astype(np.int64) @ weights
