"""The class index: what the packages export, where it stands, and what YAML calls it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suite.config.reference.catalogue import GLOBAL, common
from suite.config.reference.docstrings import paper, phrase
from suite.config.reference.files import ConfigFile, Tree, packages
from suite.config.signature import locate


@dataclass
class Entry:
    """Describes one public name.

    Attributes:
        section: package of its module.
        name: the public name; empty for an option without a class of its own.
        file: relative to the repository.
        what: one phrase.
        paper: the citation of its docstring.
        yaml: how to choose it.
    """

    section: str
    name: str
    file: str
    what: str
    paper: str = ""
    yaml: list[str] = field(default_factory=list)


def entries(tree: Tree) -> list[Entry]:
    """Return the public classes and functions of all packages, by package of their module."""
    root = tree.root.parent
    names, heads = _yaml_names(tree), _heads(tree)
    found: list[Entry] = []
    for stub in sorted(p for name in packages() for p in (root / name).rglob("__init__.pyi")):
        package = ".".join(stub.parent.relative_to(root).parts)
        for public in _exported(stub):
            target = locate(f"{package}.{public}")
            if callable(target) and (inspect.isclass(target) or inspect.isfunction(target)):
                file = Path(inspect.getsourcefile(target) or "").resolve().relative_to(root.resolve())
                yaml = names.pop(f"{package}.{public}", [])
                section = ".".join(file.parent.parts)
                what = heads.get(f"{package}.{public}") or phrase(target)
                found.append(Entry(section, public, file.as_posix(), what, paper(target), yaml))
    found += _without_class(tree, found)
    return sorted(found, key=lambda e: (e.section, not e.name, not e.yaml, [y.lower() for y in e.yaml], e.name))


def _exported(stub: Path) -> list[str]:
    tree = ast.parse(stub.read_text(encoding="utf-8"))
    return [a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]


def _files(tree: Tree) -> Iterator[ConfigFile]:
    for program in tree.programs:
        yield from program.primaries.values()
    for groups in (*(p.groups for p in tree.programs), tree.shared):
        for options in groups.values():
            yield from options.values()


def _yaml_names(tree: Tree) -> dict[str, list[str]]:
    """Return by target the options of a group that are built from it, or the keys of its nodes."""
    found: dict[str, list[str]] = {}
    for file in _files(tree):
        root = "" if file.package == GLOBAL else file.package or file.group
        for path, target in _targets(file.data):
            key = ".".join(filter(None, [root, path])) if path else f"{file.group}={file.option}"
            names = found.setdefault(".".join(target.split(".")[: _public_length(target)]), [])
            alike = next((i for i, n in enumerate(names) if path and n.count(".") == key.count(".")), None)
            if alike is None:
                names.append(key)
            else:
                names[alike] = common(names[alike], key)
    return found


def _heads(tree: Tree) -> dict[str, str]:
    """Return by target what its YAML file says of it, where exactly one file does."""
    said: dict[str, list[str]] = {}
    for file in _files(tree):
        if isinstance(file.data.get("_target_"), str):
            said.setdefault(file.data["_target_"], []).append(file.head)
    return {target: heads[0].rstrip(".") for target, heads in said.items() if len(heads) == 1 and heads[0]}


def _public_length(target: str) -> int:
    """Count the parts of a target up to the public name: `lm.FrozenLM.load` is a method of one."""
    parts = target.split(".")
    return next((i + 1 for i, part in enumerate(parts) if part[:1].isupper()), len(parts))


def _targets(data: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(data, dict):
        if isinstance(data.get("_target_"), str):
            yield path, data["_target_"]
        for key, value in data.items():
            yield from _targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, list):
        for value in data:
            yield from _targets(value, f"{path}[]")


def _without_class(tree: Tree, found: list[Entry]) -> list[Entry]:
    """Return the options that only set keys, in groups whose other options are classes of one section."""
    out = []
    for program in tree.programs:
        for group, options in program.groups.items():
            homes = {e.section for e in found for y in e.yaml if y.partition("=")[0] == group}
            bare = [f for f in options.values() if f.package == GLOBAL]
            if len(homes) == 1 and len(bare) < len(options):
                out += [Entry(next(iter(homes)), "", "", _settings(f), yaml=[f"{group}={f.option}"]) for f in bare]
    return out


def _settings(file: ConfigFile) -> str:
    def leaves(data: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for key, value in data.items():
            yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"`{prefix}{key}={value}`"]

    text = ", ".join([*(f"as `{parent}`" for parent in file.parents), *(s.lower() for s in leaves(file.data))])
    return f"{file.head} ({text})" if file.head else text
