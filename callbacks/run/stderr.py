"""A line to stderr past all buffers."""

from __future__ import annotations

import os
from contextlib import suppress


def say_at_once(text: str) -> None:
    """Write a text to stderr, as far as somebody reads it: also from a signal handler or another thread.

    `print` may be what was interrupted, or what another thread holds; and Ctrl-C has ended `tee` behind `2>&1 | tee`.
    """
    with suppress(OSError):  # nobody reads it
        os.write(2, text.encode())
