"""UserError: the one kind of error that a user can cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
        return f"{self.where}\n  found:    {self.found}\n  expected: {self.expected}\n  remedy:   {self.remedy}"

    def __reduce__(self):  # exceptions cross process borders (data-loader workers) by their constructor's arguments
        return type(self), (self.where, self.found, self.expected, self.remedy)


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
