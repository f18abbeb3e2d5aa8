"""What a command needs of its surroundings: streams that are open, and a folder for its runs."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from callbacks.files.folders import make_folder
from callbacks.run.stderr import GONE, lead_nowhere, say_at_once
from suite.runs.exhausted import FULL

LIMITS = (*FULL, errno.EFBIG)
_NAMES = {1: "stdout", 2: "stderr"}
_full: set[int] = set()
_kept: list[io.TextIOWrapper] = []


class _Outlet(io.FileIO):
    """Writes to stdout or stderr for as long as somebody reads it; what comes later goes nowhere, also from libraries.

    A run is not ended by `| head`, by a terminal that closes, or by a full disk under its log.
    """

    def write(self, content: Any) -> int:
        try:
            return super().write(content) or 0
        except OSError as error:
            if error.errno not in (*GONE, *LIMITS):
                raise
            lead_nowhere(self.fileno())
            if error.errno in LIMITS:
                _full.add(self.fileno())
                say_at_once(f"{_NAMES[self.fileno()]}: {error.strerror}; what is printed from here on is lost\n")
            return len(memoryview(content).cast("B"))


def open_streams() -> None:
    """Give a process streams that can be written to whatever is behind them.

    Where stdin, stdout or stderr is closed, that is one that leads nowhere; otherwise the next file that it opens takes
    the stream's number, and what libraries print goes into that file. Where nobody reads stdout or stderr any more,
    what is printed goes nowhere, and nothing ends because of that. A character that they cannot show becomes "?".
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            _set(name, open(os.devnull, mode))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue  # somebody else's: of a notebook, of a test
        raw = getattr(stream.buffer, "raw", stream.buffer)
        if type(raw) is not io.FileIO or raw.fileno() not in _NAMES:
            continue
        stream.flush()
        outlet: Any = _Outlet(raw.fileno(), "w", closefd=False)
        binary = outlet if stream.buffer is raw else io.BufferedWriter(outlet)
        errors = "replace" if stream.errors == "strict" else stream.errors  # a terminal may know ASCII alone
        options = (stream.encoding, errors, None, stream.line_buffering, stream.write_through)
        _kept.append(stream)  # without a name it would close what it writes to
        _set(name, io.TextIOWrapper(binary, *options))


def lost_output() -> bool:
    """Return whether a part of what was printed did not fit where it was to go."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return bool(_full)


def _set(name: str, stream: Any) -> None:
    if getattr(sys, f"__{name}__") is getattr(sys, name):
        setattr(sys, f"__{name}__", stream)
    setattr(sys, name, stream)


def make_folders(roots: Iterable[Path]) -> None:
    """Make the folders that runs go to, before the first one begins.

    Args:
        roots: `<paths.runs>` of each job.

    Raises:
        UserError: a folder that cannot be made or written to.
    """
    for root in dict.fromkeys(roots):
        make_folder(root, f"paths.runs={root}", "set paths.runs=runs, or another folder")
