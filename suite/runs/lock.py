"""One process per run: a lock that the kernel frees when its process dies, so that no stale one needs removing."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from callbacks.errors import UserError

_files: set[TextIO] = set()  # of the locks that this process holds


class Held(UserError):
    """Tells that a run belongs to another process, which is at it."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the run in `folder`, `<paths.runs>/<name>/<hash>`, for this process.

    Raises:
        Held: another process holds it.
    """
    path = lock_of(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Held(
                str(folder),
                f"in use by {_owner(file)}",
                "one process per run",
                "wait until it ends, or stop it with kill; another seed or configuration is another run",
            ) from None
        _files.add(file)
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield
        finally:
            _files.discard(file)
            fcntl.flock(file, fcntl.LOCK_UN)


def holder(folder: Path) -> str:
    """Return which process holds the run in `folder`, "" if none does."""
    path = lock_of(folder)
    if not path.is_file():
        return ""
    with open(path, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _owner(file)
        return ""


def lock_of(folder: Path) -> Path:
    """Return the file whose lock stands for the run in `folder`."""
    return folder.parent.parent / ".locks" / folder.parent.name / folder.name


def _owner(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or "another process"


def _let_go() -> None:
    """Give up the locks in a forked child: a worker that outlives its process would keep them held."""
    if not _files:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for file in _files:
        os.dup2(nothing, file.fileno(), inheritable=False)  # the descriptor stays valid for whoever closes it
    os.close(nothing)
    _files.clear()


os.register_at_fork(after_in_child=_let_go)
