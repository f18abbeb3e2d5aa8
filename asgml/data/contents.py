"""What tells that two samples are the same, whatever they are called: digests of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import numpy as np

from asgml.data.shard_rows import ShardRows
from asgml.data.spec import Table
from asgml.data.standardize import Standardize

SIZE = 8  # bytes of a digest: of a million samples, two different ones share one with a probability of 3e-8


def sample_contents(table: Table) -> np.ndarray:
    """Return a digest of what each sample of a table holds, without its label, (n,) int64; 0 where it is not known.

    A number is the number that the network gets, whatever type it was saved in; of a media file it is the file's bytes.
    A sample without a modality is another than the same one with it. Arrays that are mapped into memory, as data
    sources of a user's own may have them, are not read: their samples are not known.
    """
    parts = {m: _parts(table, m) for m in sorted(table.x)}
    out = np.zeros(len(table), dtype=np.int64)
    for i in range(len(table)):
        found = hashlib.blake2b(digest_size=SIZE)
        for m, part in parts.items():
            here = part(i) if table.present[m][i] else b""
            if here is None:
                break
            found.update(json.dumps([m, len(here)]).encode())
            found.update(here)
        else:
            out[i] = int.from_bytes(found.digest(), "little", signed=True)
    return out


def _parts(table: Table, modality: str) -> Callable[[int], bytes | None]:
    """Return what gives the bytes that tell a modality of a sample; None where it is not known."""
    x, steps, transform = table.x[modality], table.lengths.get(modality), table.transforms[modality]
    if isinstance(x, ShardRows):
        contents = x.contents
        return lambda i: None if (found := contents[i]) is None else found.encode()
    if type(x) is not np.ndarray or x.dtype.kind not in "biuf":
        return lambda i: None
    kept: Callable[[np.ndarray], np.ndarray] = transform.stored if isinstance(transform, Standardize) else np.asarray

    def part(i: int) -> bytes:
        value = kept(x[i] if steps is None else x[i, : steps[i]])
        if value.dtype.kind == "f":
            narrow: np.ndarray = value if value.dtype.itemsize > 4 else value.astype(np.float32)
            return np.ascontiguousarray(np.add(narrow, 0.0)).tobytes()  # no negative zero
        return np.ascontiguousarray(value, dtype=np.int64).tobytes()

    return part
