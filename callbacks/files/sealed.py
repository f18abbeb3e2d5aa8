"""Sealed files: each holds the SHA-256 of everything else in it, and reading one checks it.

    archive (.ckpt, .npz)   the comment of the ZIP archive; torch, numpy and unzip read it as any other
    JSON object             the key `sha256`, over the object without it
    text (YAML)             a first line `# sha256: …`, a comment; what is cut off a text comes after it

The seal is part of the file: both are written at once, and moved and copied together. One changed bit anywhere in a
sealed file is found, in the seal as well. Not found are files that have been sealed anew, and another sealed file in
the place of one: whoever reads a file also asks which one it is (a run's hash, a cache's key). Files without a seal,
as earlier releases and other programs write them, are told apart from damaged ones, and read.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from callbacks.errors import UserError

KEY = "sha256"  # of a JSON object
END_OF_ARCHIVE = b"PK\x05\x06"  # the last record of a ZIP archive (APPNOTE.TXT 4.3.16): 22 bytes, then the comment
END_SIZE = 22
COMMENT = re.compile(rb"sha256:([0-9a-f]{64})")
COMMENT_SIZE = 71
LINE = re.compile(rb"# sha256: ([0-9a-f]{64})\n")
LINE_SIZE = 75
RESTS = re.compile(rb"sha256|[0-9a-f]{32}|\A[0-9a-f ]{1,64}\n")  # of a line that is no longer whole
HEX = re.compile("[0-9a-f]{64}")
BLOCK = 1 << 20
NO_SEAL = "rewritten: the SHA-256 that it was sealed with is gone"


class _Through:
    """Passes bytes on to a file and hashes them."""

    def __init__(self, file: BinaryIO):
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: Any, /) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def archive(file: BinaryIO) -> Iterator[IO[bytes]]:
    """Yield what a ZIP archive without a comment is to be written into, in order; when the block ends, it is sealed.

    The bytes are hashed on their way into the file, 1.7 GB a second on a CPU with SHA instructions.

    Args:
        file: an empty file, open for writing, that can seek.
    """
    through = _Through(file)
    yield cast("IO[bytes]", through)
    comment = b"sha256:" + through.digest.hexdigest().encode()
    file.seek(-2, os.SEEK_END)  # the length of the comment, zero so far
    file.write(len(comment).to_bytes(2, "little") + comment)


def check_archive(path: Path, expected: str, remedy: str) -> bool:
    """Check the seal of an archive; return False for a whole archive that has none.

    Args:
        path: the file.
        expected: what it should be, for the error.
        remedy: what to do about damage, for the error.

    Raises:
        UserError: a changed, cut off or empty file, or one that is no archive.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - COMMENT_SIZE - END_SIZE))
        tail = file.read()
        sealed = COMMENT.fullmatch(tail[END_SIZE:])
        if sealed is None or not tail.startswith(END_OF_ARCHIVE):
            bare = tail[-END_SIZE:]
            if bare.startswith(END_OF_ARCHIVE) and bare.endswith(b"\0\0"):
                return False
            raise UserError(str(path), _no_archive(size), expected, remedy)
        if int.from_bytes(tail[END_SIZE - 2 : END_SIZE], "little") != COMMENT_SIZE:
            raise UserError(str(path), "damaged: its end has changed", expected, remedy)
        digest, left = hashlib.sha256(), size - COMMENT_SIZE - 2
        file.seek(0)
        while left:
            block = file.read(min(left, BLOCK))
            if not block:
                raise UserError(str(path), "it became shorter while it was read", expected, remedy)
            digest.update(block)
            left -= len(block)
    digest.update(b"\0\0")
    _agree(digest.hexdigest(), sealed[1].decode(), path, expected, remedy)
    return True


def sealed_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its seal; a seal that it has is replaced."""
    body = {key: item for key, item in value.items() if key != KEY}
    return {**body, KEY: _of_json(body)}


def read_json(path: Path, expected: str, remedy: str, mark: str = "") -> dict[str, Any]:
    """Read a JSON object and take its seal off, checked where there is one.

    Args:
        path: the file.
        expected: what it should be, for the error.
        remedy: what to do about damage, for the error.
        mark: a key that is written by releases that seal: an object that has it needs a seal as well.

    Raises:
        UserError: a file that is no JSON object, or whose content is not what was sealed.
    """
    return parse_json(path.read_bytes(), str(path), expected, remedy, mark)


def parse_json(data: bytes, where: str, expected: str, remedy: str, mark: str = "") -> dict[str, Any]:
    """Do as `read_json` with what was read from a place that errors call `where`."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON, or nested beyond any use
        found = f"damaged: {_first_line(error)}" if data.strip(b"\0 \n") else _empty(len(data))
        raise UserError(where, found, expected, remedy) from error
    if not isinstance(value, dict):
        raise UserError(where, f"damaged: {type(value).__name__}", expected, remedy)
    told = value.pop(KEY, None)
    if told is not None:
        _agree(_of_json(value), str(told), where, expected, remedy)
    elif value and len(last := next(reversed(value))) == len(KEY) and HEX.fullmatch(str(value[last])):
        raise UserError(where, f"damaged: its seal is called {last!r}", expected, remedy)
    elif mark and mark in value:
        raise UserError(where, NO_SEAL, expected, remedy)
    return value


def sealed_text(text: str) -> bytes:
    """Return a text as UTF-8 with its seal as the first line."""
    body = text.encode()
    return f"# sha256: {hashlib.sha256(body).hexdigest()}\n".encode() + body


def read_text(path: Path, expected: str, remedy: str, required: bool = False) -> str:
    """Read a UTF-8 text without its seal, checked where there is one.

    Args:
        path: the file.
        expected: what it should be, for the error.
        remedy: what to do about damage, for the error.
        required: whether a text without a seal is refused.

    Raises:
        UserError: another encoding, an empty file, or a text that is not what was sealed.
    """
    data = path.read_bytes()
    if not data.strip(b"\0 \n"):
        raise UserError(str(path), _empty(len(data)), expected, remedy)
    first, body = data[:LINE_SIZE], data[LINE_SIZE:]
    line = LINE.fullmatch(first)
    if line is not None:
        _agree(hashlib.sha256(body).hexdigest(), line[1].decode(), path, expected, remedy)
    elif RESTS.search(data[: 2 * LINE_SIZE]):
        raise UserError(str(path), "damaged: its first line has changed", expected, remedy)
    elif required:
        raise UserError(str(path), NO_SEAL, expected, remedy)
    try:
        return (body if line else data).decode()
    except UnicodeDecodeError as error:
        raise UserError(str(path), f"damaged: {error.reason}", expected, remedy) from error


def sealed_archive(content: io.BytesIO) -> bytes:
    """Return the bytes of a ZIP archive that was written into memory, sealed."""
    out = io.BytesIO()
    with archive(out) as file:
        file.write(content.getbuffer())
    return out.getvalue()


def _of_json(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _agree(found: str, told: str, where: Path | str, expected: str, remedy: str) -> None:
    if found != told:
        what = f"damaged or edited: SHA-256 {found[:12]}…, sealed as {told[:12]}…"
        raise UserError(str(where), what, expected, remedy)


def _no_archive(size: int) -> str:
    return _empty(size) if size == 0 else f"{size} bytes without the end of an archive: cut off, changed or foreign"


def _empty(size: int) -> str:
    return "an empty file" if size == 0 else f"{size} bytes of nothing"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
