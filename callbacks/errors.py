"""UserError: the one kind of error that a user can cause."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHOWN = 1200  # characters of a line of what was found: ten lines of a wide terminal
LINES = 60  # of them: those of a dozen problems that are told together


class UserError(Exception):
    """Tells about bad input in one screen: where it is, what was found, what was expected, and what to do.

    The launcher prints it without a traceback and exits with `EXIT_CODE`.

    Args:
        where: the file, the configuration key or the command-line argument at fault.
        found: what stood there.
        expected: what would have been accepted.
        remedy: the next thing to type or to edit, so that it works as it stands.
    """

    EXIT_CODE = 2

    def __init__(self, where: str, found: str, expected: str, remedy: str):
        self.where, self.found, self.expected, self.remedy = where, found, expected, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        found = _shown(self.found)
        return f"{_shown(self.where)}\n  found:    {found}\n  expected: {self.expected}\n  remedy:   {self.remedy}"

    def __reduce__(self):  # exceptions cross process borders (data-loader workers) by their constructor's arguments
        return type(self), (self.where, self.found, self.expected, self.remedy)


def quoted(path: Path | str) -> str:
    """Return a path as a shell reads it, for remedies that are typed: quotes stand around spaces and the like."""
    return shlex.quote(str(path))


def no_folder(path: Path) -> str:
    """Return what was found where a folder was expected: nothing, or something else."""
    return "no folder, but a file" if path.exists() else "no such folder"


def _shown(text: str) -> str:
    """Return what came from a user's file as a terminal can show it: not endless, and nothing that moves the cursor."""
    lines = text[: LINES * SHOWN].split("\n")
    told = [_plain(line[:SHOWN]) + ("…" if len(line) > SHOWN else "") for line in lines[:LINES]]
    return "\n".join(told if len(lines) <= LINES else [*told, "…"])


def _plain(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in line)


class RunEnded(UserError):
    """Reports that a run ended itself by a rule that its configuration holds; what it has found by then is recorded.

    Args:
        where: the key of the rule.
        found: what the run has come to.
        expected: what the rule asks.
        remedy: the next thing to type or to edit.
        result: what belongs into the run's `result.json` beside the error, plain values.
    """

    def __init__(self, where: str, found: str, expected: str, remedy: str, result: Mapping[str, Any] | None = None):
        super().__init__(where, found, expected, remedy)
        self.result = dict(result or {})

    def __reduce__(self):
        return type(self), (self.where, self.found, self.expected, self.remedy, self.result)
