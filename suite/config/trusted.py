"""Which code the settings in a file may name: that of this suite, and of packages that the user trusts by name."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from callbacks.errors import UserError


def refuse_foreign(
    settings: Mapping[str, Any],
    path: Path,
    program: str,
    rooms: Collection[str],
    trusted: Collection[str] = (),
    also: Collection[str] = (),
) -> None:
    """Refuse settings that would run code which nobody trusts.

    Args:
        settings: plain values; whatever is under a key `_target_`, at any depth, is code.
        path: the file that holds them, for the error.
        program: the package of the suite whose public names may be named.
        rooms: its rooms that may.
        trusted: further packages whose code may be named.
        also: further names of the program that may, one by one.

    Raises:
        UserError: a name of anything else.
    """
    for target in targets(settings):
        package, _, name = target.rpartition(".")
        suite, _, room = package.partition(".")
        own = target in also or (
            suite == program and room in rooms and name in importlib.import_module(package).__all__
        )
        if not own and suite not in trusted:
            raise UserError(
                str(path),
                f"_target_: {target}",
                f"public names of {program}, or code that you trust",
                f"add --trust {target.split('.')[0]} if you trust the code of that package on this machine",
            )


def targets(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            if key == "_target_":
                yield str(child)
            yield from targets(child)
    elif isinstance(value, list):
        for child in value:
            yield from targets(child)
