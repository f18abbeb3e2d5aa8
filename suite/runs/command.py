"""What the smaller commands share: how a user's error ends them, and `--config-dir`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from callbacks.errors import UserError


class Main(Protocol):
    """The entry of a command: arguments in place of `sys.argv[1:]` in, exit code out."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def command(main: Main) -> Main:
    """Decorate a command's `main(argv) -> exit code`: a UserError is printed to stderr, its exit code returned."""

    @functools.wraps(main)
    def ends(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except UserError as error:
            print(error, file=sys.stderr)
            return error.EXIT_CODE

    return ends


def split_config_dirs(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Split `--config-dir FOLDER` (`-cd`, `--config-dir=FOLDER`) off a command line: the folders, and the rest.

    Raises:
        UserError: the flag stands last, without a folder.
    """
    folders, rest, left = list[Path](), list[str](), list(arguments)
    while left:
        first = left.pop(0)
        flag, equals, value = first.partition("=")
        if flag not in ("--config-dir", "-cd"):
            rest.append(first)
            continue
        if not equals and not left:
            raise UserError(flag, "nothing after it", "a folder of YAML files", f"{flag} FOLDER")
        folders.append(Path(value if equals else left.pop(0)))
    return folders, rest
