"""The YAML files of a program: groups, options and what the comments in them say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from suite.config.compose import conf_dir

SHARED = "common"
_PACKAGE = re.compile(r"^#\s*@package\s+(\S+)\s*$", re.MULTILINE)
_COMMAND = re.compile(r"Primary configuration of `python -m ([^`]+)`")
_ALTERNATIVES = re.compile(r"^[^\s|]+( \| [^\s|]+)*( …)?$")


@dataclass
class ConfigFile:
    """Holds one YAML file.

    Attributes:
        path: the file.
        group: the config group; empty for a primary configuration.
        data: its content without the defaults list.
        defaults: its defaults list.
        package: `_global_`, a dotted key, or None where the file leaves it to the group.
        head: the comment that it begins with.
        notes: by dotted key (`defaults.<group>` of the defaults list), line number and comment (at the end of the line,
            else in the lines above).
    """

    path: Path
    group: str
    data: dict[str, Any] = field(default_factory=dict)
    defaults: list[Any] = field(default_factory=list)
    package: str | None = None
    head: str = ""
    notes: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def option(self) -> str:
        """Return the name to choose it by."""
        return self.path.stem

    @property
    def parents(self) -> list[str]:
        """Return the options of the same group that it builds upon."""
        return [d for d in self.defaults if isinstance(d, str) and d != "_self_"]

    @property
    def includes(self) -> list[tuple[str, str, Any]]:
        """Return group, relative package and option of the other groups in its defaults list."""
        found = []
        for entry in self.defaults:
            if isinstance(entry, dict):
                for key, option in entry.items():
                    group, _, package = str(key).partition("@")
                    if not group.startswith("override "):
                        found.append((group.lstrip("/"), package or group.lstrip("/"), option))
        return found

    @property
    def choices(self) -> list[str]:
        """Return what it chooses of other groups by `override`, as on a command line."""
        pairs = [(str(k), v) for entry in self.defaults if isinstance(entry, dict) for k, v in entry.items()]
        chosen = [(k.removeprefix("override /"), v) for k, v in pairs if k.startswith("override ")]
        return [f"{k}=[{','.join(v)}]" if isinstance(v, list) else f"{k}={v}" for k, v in chosen]


def read(path: Path, group: str = "") -> ConfigFile:
    """Read a file with its comments."""
    text = path.read_text(encoding="utf-8")
    package = _PACKAGE.search(text)
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    head = " ".join(line.lstrip("# ").strip() for line in lines[:first] if not _PACKAGE.match(line)).strip()
    data = yaml.safe_load(text) or {}
    defaults = data.pop("defaults", [])
    node = yaml.compose(text)
    notes = dict(_notes(node, lines, first, "")) if isinstance(node, yaml.MappingNode) else {}
    return ConfigFile(path, group, data, defaults, package and package.group(1), head, notes)


def _notes(node: yaml.MappingNode, lines: list[str], first: int, prefix: str) -> Iterator[tuple[str, tuple[int, str]]]:
    for key, value in node.value:
        number = key.start_mark.line
        path = f"{prefix}{key.value}"
        same_line = value.end_mark.line == number and not (isinstance(value, yaml.MappingNode) and not value.flow_style)
        rest = lines[number][(value if same_line else key).end_mark.column :]
        trailing = rest.partition("#")[2].strip() if rest.lstrip(" :").startswith("#") else ""
        above: list[str] = []
        row = number - 1
        while row >= first and re.match(rf"^ {{{key.start_mark.column}}}#", lines[row]):
            above.insert(0, lines[row].lstrip("# ").strip())
            row -= 1
        comment = trailing or " ".join(above)
        yield path, (number + 1, "" if _ALTERNATIVES.match(comment) else comment)
        if isinstance(value, yaml.MappingNode):
            yield from _notes(value, lines, first, f"{path}.")
        for item in value.value if path == "defaults" else ():
            if isinstance(item, yaml.MappingNode):
                yield from _notes(item, lines, first, "defaults.")


@dataclass
class Program:
    """Holds a folder of YAML files with a `config.yaml`.

    Attributes:
        name: the folder's name, which is that of a Python package.
        primaries: its primary configurations: `config.yaml`, and what beside it says that it is one.
        groups: config groups of its own, options by name.
        bases: what else lies beside `config.yaml`, for primary configurations to build upon.
    """

    name: str
    primaries: dict[str, ConfigFile]
    groups: dict[str, dict[str, ConfigFile]]
    bases: dict[str, ConfigFile] = field(default_factory=dict)

    def command(self, primary: str) -> str:
        """Return what runs a primary configuration: a module, or a module and the name of a study."""
        said = _COMMAND.match(self.primaries[primary].head)
        return said.group(1) if said else f"{self.name}.{'run' if primary == 'config' else primary}"

    def basis(self, file: ConfigFile) -> list[str]:
        """Return the nearest primary configurations that a file builds upon."""
        found = list[str]()
        for parent in file.parents:
            found += [parent] if parent in self.primaries else self.basis(self.bases[parent])
        return found


@dataclass
class Tree:
    """Reads all YAML files."""

    root: Path

    @cached_property
    def programs(self) -> list[Program]:
        """Return the programs, by name."""
        found = []
        for path in sorted(self.root.glob("*/config.yaml")):
            beside = sorted(path.parent.glob("*.yaml"), key=lambda p: (p != path, p.name))
            files = {p.stem: read(p) for p in beside}
            primaries = {n: f for n, f in files.items() if n == "config" or _COMMAND.match(f.head)}
            bases = {n: f for n, f in files.items() if n not in primaries}
            found.append(Program(path.parent.name, primaries, _groups(path.parent), bases))
        return found

    @cached_property
    def shared(self) -> dict[str, dict[str, ConfigFile]]:
        """Return the groups of all programs."""
        return _groups(self.root / SHARED)


def tree() -> Tree:
    """Return the tree of this checkout."""
    return Tree(conf_dir())


def packages() -> set[str]:
    """Return the names of the repository's own packages."""
    return {p.parent.name for p in conf_dir().parent.glob("*/__init__.py")}


def _groups(folder: Path) -> dict[str, dict[str, ConfigFile]]:
    return {g.name: {p.stem: read(p, g.name) for p in sorted(g.glob("*.yaml"))} for g in sorted(folder.glob("*/"))}
