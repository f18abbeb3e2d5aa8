"""Ctrl-C in the seconds in which a command still imports its libraries: a word instead of a traceback."""

from __future__ import annotations

import sys
from types import TracebackType

from callbacks.run.stderr import say_at_once

LOCATING = "-m"  # what `sys.argv[0]` is while Python imports the package of `python -m package.module`
WORD = "\nstopped\n"


def begin() -> None:
    """Let an interrupt that no code of ours can catch yet be told in a line; outside `python -m`, do nothing.

    Called by the packages that hold commands, before anything else is imported. The process ends as an interrupted one
    does, with 130 for a shell.
    """
    if sys.argv[:1] == [LOCATING]:
        sys.excepthook = _report


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        say_at_once(WORD)
    else:
        sys.__excepthook__(kind, error, trace)
