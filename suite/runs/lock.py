"""One process per run: a lock that the kernel frees when its process dies, so that no stale one needs removing."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from callbacks.errors import UserError


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the run in `folder`, `<paths.runs>/<name>/<hash>`, for this process.

    Raises:
        UserError: another process holds it.
    """
    path = folder.parent.parent / ".locks" / folder.parent.name / folder.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError(
                str(folder),
                f"in use by {owner}",
                "one process per run",
                "wait until it ends, or stop it with kill; another seed or configuration is another run",
            ) from None
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # also for descriptors inherited by data-loader workers
