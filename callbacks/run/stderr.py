"""A line to stderr past all buffers."""

from __future__ import annotations

import errno
import os

GONE = (errno.EPIPE, errno.EIO)  # of a stream that nobody reads any more: a pipe, a terminal


def say_at_once(text: str) -> None:
    """Write a text to stderr, as far as somebody reads it: also from a signal handler or another thread.

    `print` may be what was interrupted, or what another thread holds; and Ctrl-C has ended `tee` behind `2>&1 | tee`.
    """
    try:
        os.write(2, text.encode())
    except OSError as error:
        if error.errno not in GONE:
            raise
        lead_nowhere(2)


def lead_nowhere(descriptor: int) -> None:
    """Let what is written to a descriptor from now on go nowhere, also from libraries and child processes."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
