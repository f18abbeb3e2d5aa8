"""UserError: the one kind of error that a user can cause."""

from __future__ import annotations


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
