"""What tells that two samples are the same, whatever they are called: digests of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from asgml.data.media import MediaError

SIZE = 8  # bytes of a digest: of a million samples, two different ones share one with a probability of 3e-8
_BLOCK = 1 << 20  # bytes of a file that are hashed in one go


def content_of(files: Sequence[Path], *part: object) -> str:
    """Return 16 hex digits of the BLAKE2b of what files hold, whatever they are called.

    Args:
        files: the files.
        part: what else tells which part of them is meant.

    Raises:
        MediaError: a file that cannot be read.
    """
    found = hashlib.blake2b(json.dumps([len(files), *part]).encode(), digest_size=SIZE)
    for path in files:
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    found.update(block)
        except OSError as error:
            raise MediaError(path, f"cannot be read: {error.strerror}") from error
    return found.hexdigest()
