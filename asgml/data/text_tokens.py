"""Texts to token numbers without a tokenizer to fit: hashed words, or bytes."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

Units = Literal["words", "bytes"]
VOCABULARY: dict[Units, int] = {"words": 4096, "bytes": 256}
_WORD = re.compile(r"\w+|[^\w\s]")


def token_ids(text: str, units: Units) -> list[int]:
    """Return the tokens of a text as numbers below `VOCABULARY[units]`.

    Words, in lower case, and single punctuation marks get the CRC-32 of their UTF-8, modulo the vocabulary: the hashing
    trick (Weinberger et al., ICML 2009), under which a few words share a number. Bytes are those of UTF-8.
    """
    if units == "bytes":
        return list(text.encode())
    words = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    return [zlib.crc32(w.encode()) % VOCABULARY["words"] for w in words]


def padded_tokens(texts: Sequence[str], units: Units, most: int) -> tuple[np.ndarray, int]:
    """Return the tokens of texts, (n, L) int32 padded with -1, L at most `most` and at least 1, and how many were cut.

    Args:
        texts: the texts; an empty one has no token.
        units: what a token is.
        most: the number of tokens after which a text is cut.
    """
    found = [token_ids(text, units) for text in texts]
    width = max(1, min(most, max(map(len, found), default=1)))
    out = np.full((len(found), width), -1, dtype=np.int32)
    for row, ids in enumerate(found):
        kept = ids[:width]
        out[row, : len(kept)] = kept
    return out, sum(len(ids) > width for ids in found)
