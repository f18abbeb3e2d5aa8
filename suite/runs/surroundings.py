"""What a command needs of its surroundings: streams that are open, and a folder for its runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from callbacks.errors import UserError


def open_streams() -> None:
    """Give a process whose stdin, stdout or stderr is closed a stream that leads nowhere.

    Otherwise the next file that it opens takes the stream's number, and what libraries print goes into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)
            setattr(sys, name, stream)
            if getattr(sys, f"__{name}__") is None:
                setattr(sys, f"__{name}__", stream)


def make_folders(roots: Iterable[Path]) -> None:
    """Make the folders that runs go to, before the first one begins.

    Args:
        roots: `<paths.runs>` of each job.

    Raises:
        UserError: a folder that cannot be made or written to.
    """
    for root in dict.fromkeys(roots):
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(root, error.strerror or str(error)) from error
        if not os.access(root, os.W_OK | os.X_OK):
            raise _unusable(root, "no permission to write there")


def _unusable(root: Path, why: str) -> UserError:
    return UserError(
        f"paths.runs={root}",
        why,
        "a folder, or the path of one that can be made",
        "set paths.runs=runs, or another folder",
    )
