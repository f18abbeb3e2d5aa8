"""The idx format of the MNIST files: magic 0 0 8 rank, big-endian sizes, then bytes."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from callbacks.errors import UserError

FETCH = "fetch them with torchvision.datasets.MNIST(root, download=True), which leaves them in root/MNIST/raw"


def idx_path(folder: Path, name: str) -> Path | None:
    """Return the path of `folder/name`, else of `folder/name.gz`, else None."""
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Read the array (of any shape) in `folder/name` or `folder/name.gz`; it is a read-only view of uint8.

    Raises:
        UserError: a file that is absent, damaged or not as long as its header says.
    """
    path = idx_path(folder, name)
    if path is None:
        raise UserError(
            str(folder / name),
            "no such file, and none with .gz",
            "the MNIST test files in idx format",
            f"put the MNIST files there: {FETCH}",
        )
    remedy = f"delete this file and put the MNIST files there: {FETCH}"
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(str(path), f"damaged: {error}", "a gzip file", remedy) from error
    rank = data[3] if len(data) > 3 else 0
    if data[:3] != b"\x00\x00\x08" or rank == 0 or len(data) < 4 + 4 * rank:
        raise UserError(str(path), f"first bytes {data[:4].hex(' ')}", "00 00 08 <rank>: idx of unsigned bytes", remedy)
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    body = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * rank)
    count = 1
    for size in shape:
        count *= size  # Python integers: a corrupted header must not overflow
    if count != len(body):
        found = f"{len(body)} bytes of data, the header says {' x '.join(map(str, shape))} = {count}"
        raise UserError(str(path), found, "as many bytes as the header says", remedy)
    return body.reshape(shape)
