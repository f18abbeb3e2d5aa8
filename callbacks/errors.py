"""The one kind of error a user can cause."""

from __future__ import annotations


class UserError(Exception):
    """Bad input, told in one screen: what is wrong where, what was expected, and what to do.

    Args:
        where: the file, config key or command-line argument at fault.
        found: what stood there.
        expected: what would have been accepted.
        remedy: the next thing to type or change.

    The launcher prints it without a traceback and exits with `EXIT_CODE`.
    """

    EXIT_CODE = 2

    def __init__(self, where: str, found: str, expected: str, remedy: str):
        self.where, self.found, self.expected, self.remedy = where, found, expected, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        return f"{self.where}\n  found:    {self.found}\n  expected: {self.expected}\n  remedy:   {self.remedy}"

    def __reduce__(self):  # exceptions cross process borders (data-loader workers) by their constructor's arguments
        return type(self), (self.where, self.found, self.expected, self.remedy)
