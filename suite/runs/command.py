"""What the smaller commands share: how a user's error ends them, how `--help` looks, and `--config-dir`."""

from __future__ import annotations

import argparse
import functools
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from callbacks.errors import UserError
from callbacks.run.stderr import say_at_once
from suite.runs.exhausted import exhausted
from suite.runs.stopping import EXIT_INTERRUPT, STOPPED
from suite.runs.surroundings import lost_output, open_streams

WIDTH = 96  # columns of a help page, whatever the terminal has


class Main(Protocol):
    """The entry of a command: arguments in place of `sys.argv[1:]` in, exit code out."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def command(main: Main) -> Main:
    """Decorate a command's `main(argv) -> exit code`: a UserError is printed to stderr, its exit code returned.

    Where nobody reads what it prints any more, it goes on to its end without a word; 1 is returned where what it prints
    is to go to a file and the disk is full, 130 after Ctrl-C.
    """

    @functools.wraps(main)
    def ends(argv: Sequence[str] | None = None) -> int:
        open_streams()
        try:
            code = main(argv)
            return code or int(lost_output())
        except UserError as error:
            print(error, file=sys.stderr)
            return error.EXIT_CODE
        except KeyboardInterrupt:
            say_at_once(STOPPED)
            return EXIT_INTERRUPT
        except (OSError, MemoryError) as error:
            if (told := exhausted(error)) is None:
                raise
            print(told, file=sys.stderr)
            return told.EXIT_CODE

    return ends


def page(text: str) -> str:
    """Return a docstring as a help page: paragraphs wrapped, indented lines as they are."""
    blocks = []
    for block in textwrap.dedent(text).strip().split("\n\n"):
        indented = any(line.startswith(" ") for line in block.splitlines())
        blocks.append(block if indented else textwrap.fill(block.replace("\n", " "), WIDTH, break_on_hyphens=False))
    return "\n\n".join(blocks)


class Page(argparse.HelpFormatter):
    """Lays out the help of a small command: its docstring as `page` does, options within `WIDTH` columns."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26, width=WIDTH)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return page(text)


def command_parser(prog: str, text: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """Return an empty parser of a small command.

    Args:
        prog: what is typed, `python -m asgml.compare`.
        text: what the command does, usually the docstring of its module.
        epilog: what its help ends with.
    """
    return argparse.ArgumentParser(prog=prog, description=text, epilog=epilog, formatter_class=Page)


def helped(argv: Sequence[str] | None, text: str | None) -> bool:
    """Print a docstring as help and return True where a command line asks for it; for commands without a parser."""
    asked = any(a in ("--help", "-h") for a in (sys.argv[1:] if argv is None else argv))
    if asked:
        print(page(text or ""))
    return asked


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
