"""How a configured target says which files a run reads through it, and which of its keys act on nothing.

A target, class or function, may have any of four attributes, each a function of the arguments of its node, plain
defaults (numbers, strings, None) filled in and references to `paths` resolved:

- `input_files`: the files that the user gives, by role. Their content is part of the run's identity.
- `derived_files`: the files that follow from the configuration and the inputs (renderings, prepared shards), as far as
  they exist. Their content is recorded and compared, and does not change the identity: they may be made by the run.
- `files_behind`: the files and folders that the derived files are made of, a list: when one of them changes, what was
  derived is made anew before anything is compared.
- `inert_keys`: the keys that act on nothing at these values, each with the setting that makes it so.

A role is the name of the parameter, and what follows below it: `path`, `path/train.csv`. A parameter that names a file
itself counts by the file's content, wherever it lies.

A class has them as static or class methods; a function gets the first two by `reads`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

GIVEN, DERIVED, BEHIND, INERT = "input_files", "derived_files", "files_behind", "inert_keys"

Arguments = Mapping[str, Any]
Files = Mapping[str, Path | Sequence[Path]]  # by role; several files of one folder may count as one
Function = TypeVar("Function", bound=Callable[..., Any])


def reads(
    given: Callable[[Arguments], Files] | None = None, derived: Callable[[Arguments], Files] | None = None
) -> Callable[[Function], Function]:
    """Decorate a function that is a configured target with the files that it reads, as functions of its arguments."""

    def mark(function: Function) -> Function:
        for name, files in ((GIVEN, given), (DERIVED, derived)):
            if files is not None:
                setattr(function, name, files)
        return function

    return mark


def files_in(folder: str | Path, role: str, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files with these suffixes that lie directly in a folder, by `<role>/<name>`; {} if there is none."""
    found = sorted(Path(folder).expanduser().glob("*"))
    return {f"{role}/{p.name}": p for p in found if p.suffix in suffixes and p.is_file()}
