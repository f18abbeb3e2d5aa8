"""Texts that a user gives, as they were given: UTF-8, or refused with what is wrong and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard

from callbacks.errors import UserError

HALVES = "write the whole character, or replace \\ud800 to \\udfff by \\ufffd"  # where a text has a lone surrogate


def read_given(path: Path, where: str, expected: str, remedy: str) -> str:
    """Return the text of a file, a byte order mark left out.

    Args:
        path: the file.
        where: what errors call it where there is nothing to be read.
        expected: what it should be, for errors.
        remedy: what to do where there is no such file, for errors.

    Raises:
        UserError: a file that is absent, a folder, not to be read, not UTF-8, or with NUL characters (as UTF-16 and
            binary files have them), with its line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        found = "a folder" if path.is_dir() else "no such file"
        if not isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
            found = f"cannot be read: {error.strerror}"
        raise UserError(where, found, expected, remedy) from error
    except UnicodeDecodeError as error:
        raise UserError(str(path), f"not UTF-8 text ({error.reason})", expected, "save it as UTF-8") from error
    before, nul, _ = text.partition("\0")
    if nul:
        place = f"{path}, line {before.count(chr(10)) + 1}"
        raise UserError(place, "a NUL character: UTF-16, or no text", expected, "save it as UTF-8, without NUL")
    return text


def parse_given(text: str, where: str, expected: str, remedy: str) -> Any:
    """Return what a JSON text says.

    Raises:
        UserError: no JSON, or one nested deeper than any layout of this suite.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UserError(where, "JSON of endless depth", expected, remedy) from error
    except ValueError as error:  # a JSONDecodeError, or a number of more digits than Python reads
        raise UserError(where, f"no JSON: {error}", expected, remedy) from error


def is_text(value: object) -> TypeGuard[str]:
    """Tell whether a value is a text that UTF-8 can hold: JSON may spell half a character, a lone surrogate."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
