"""A case: a command, what it reads, and what it leaves that must not depend on how often it was killed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from callbacks.errors import UserError

FOLDER = "{folder}"  # in a command: the folder of the trial


@dataclass(frozen=True)
class Case:
    """A command that can be killed anywhere.

    Attributes:
        name: what tables call it.
        command: the words after `python`, `{folder}` for the folder that it works in.
        left: from that folder to what is compared: digests by name.
        before: what makes the files that the command reads, in a folder that every trial gets a copy of.
    """

    name: str
    command: Sequence[str]
    left: Callable[[Path], Mapping[str, str]]
    before: Callable[[Path], None] | None = None

    def line(self, folder: Path) -> list[str]:
        """Return the command in a folder."""
        return [word.replace(FOLDER, str(folder)) for word in self.command]


def cases_of(programs: Sequence[str], names: Sequence[str]) -> list[Case]:
    """Return the cases that programs list as `CASES` in their module `torture`, those with these names or all.

    Raises:
        UserError: a program without such a module, or an unknown name.
    """
    found: list[Case] = []
    for program in programs:
        module = f"{program}.torture"
        there = importlib.util.find_spec(program) is not None and importlib.util.find_spec(module) is not None
        listed = getattr(importlib.import_module(module), "CASES", None) if there else None
        if listed is None:
            where = f"python -m suite.torture {program}"
            raise UserError(where, f"no {module}", "a program that lists cases there", "make torture")
        found += listed
    known = {case.name for case in found}
    for name in names:
        if name not in known:
            raise UserError(f"--case {name}", "no such case", ", ".join(sorted(known)), f"--case {min(known)}")
    return [case for case in found if not names or case.name in names]
