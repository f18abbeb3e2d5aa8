"""Files written in one piece: a reader, a crash or a full disk sees the old file or the new one, whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def in_one_piece(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends without an error, on the disk by then.

    The temporary file lies beside it under a name of this process, so that processes may write the same file at once:
    the last one wins, whole. After an error it is removed; after SIGKILL it stays, as `.<name>.<pid>.tmp`.

    Args:
        path: the file; its folder is made where there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put_in_place(temporary: Path, path: Path, keep_as: Path | None = None) -> None:
    """Bring a file that has been written to the disk, then give it its name in place of what had it.

    Args:
        temporary: the file, closed.
        path: its name.
        keep_as: the name, in the same folder, under which what had `path` is kept; None does not keep it.
    """
    to_disk(temporary)
    if keep_as is not None:
        path.replace(keep_as)
    temporary.replace(path)
    to_disk(path.parent)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file in one piece and return its path."""
    with in_one_piece(path) as file:
        file.write(content)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a text as UTF-8 in one piece and return its path."""
    return write_bytes(path, text.encode())


def to_disk(path: Path) -> None:
    """Return when the content of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
