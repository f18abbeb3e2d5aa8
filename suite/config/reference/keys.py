"""Keys of the YAML files, each with its meaning, type and default, from the target or schema that takes it."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from suite.config.check import Common, Typed
from suite.config.reference.docstrings import first_sentence, meanings, phrase, place, summary
from suite.config.reference.files import ConfigFile, packages
from suite.config.signature import dataclass_in, locate, parameters
from suite.config.wording import NODE, type_text

_OF_HYDRA = "hydra"


@dataclass
class Row:
    """Describes one key.

    Attributes:
        key: dotted, from the root of the tree.
        type: what it takes; `node` for one that holds keys of its own.
        meaning: what it says; empty where nobody says it.
        owner: whose parameter it is: a target or schema; empty for a key of the files alone.
        values: defaults, each with the option that gives it.
        missing: where a meaning has to be written.
        open: whether what lies below it is named by the user.
        also: other keys at which the same target takes the same.
    """

    key: str
    type: str = ""
    meaning: str = ""
    owner: str = ""
    values: list[tuple[str, Any]] = field(default_factory=list)
    missing: str = ""
    open: bool = False
    also: list[str] = field(default_factory=list)


@dataclass
class Owner:
    """Takes the keys of a node: a target, or a dataclass of plain keys."""

    target: Callable[..., Any]

    def __post_init__(self) -> None:
        self.accepted = parameters(self.target)
        self.said = meanings(self.target, self.accepted.names)

    @property
    def name(self) -> str:
        return f"{self.target.__module__}.{getattr(self.target, '__qualname__', '')}"

    @property
    def is_own(self) -> bool:
        """Tell whether its docstrings are written in this repository."""
        return self.target.__module__.partition(".")[0] in packages()

    def meaning(self, name: str) -> str:
        said = self.said.get(name, "")
        return said if self.is_own else re.sub(r"\s*\(default: [^()]*\)", "", first_sentence(said))

    def declares(self, name: str) -> Callable[..., Any]:
        """Return the class in whose docstring a parameter belongs."""
        bases = self.target.__mro__ if inspect.isclass(self.target) else ()
        return next((b for b in bases if name in inspect.get_annotations(b)), self.target)

    def annotation(self, name: str) -> Any:
        return self.accepted.annotations.get(name, Any)


def schema_of(command: str) -> type:
    """Return the dataclass of a command's plain keys: that of its study, else the most derived in its module."""
    module, _, study = command.partition(" ")
    if study:
        return importlib.import_module(module).STUDIES[study].schema
    found = _classes(module) or _classes(f"{module}.__main__") or _classes(f"{module}.options")
    return max(found, key=lambda c: len(c.__mro__), default=Common)


def _classes(module: str) -> list[type]:
    parts = module.split(".")
    if any(importlib.util.find_spec(".".join(parts[:n])) is None for n in range(1, len(parts) + 1)):
        return []
    names = vars(importlib.import_module(module)).values()
    return [c for c in names if inspect.isclass(c) and issubclass(c, Typed)]


def walk(file: ConfigFile, data: dict[str, Any], prefix: str, schema: type | None, origin: str) -> Iterator[Row]:
    """Yield the keys of a file.

    Args:
        file: for its comments.
        data: its content, that of the options it builds upon included.
        prefix: dotted key of the node that the file fills; empty for the root.
        schema: dataclass of the root's plain keys; None: the node has a target of its own.
        origin: name of the file in what is said to be missing.
    """
    yield from _Walk(file, origin).node(data, prefix, prefix, None if schema is None else Owner(schema))


class _Walk:
    def __init__(self, file: ConfigFile, origin: str):
        self.file, self.origin = file, origin

    def node(self, data: dict[str, Any], key: str, root: str, owner: Owner | None) -> Iterator[Row]:
        """Yield what a mapping holds. `root` is the file's own node: comments are found by the key below it."""
        owner = self.target(data) or owner
        for name, value in data.items():
            name = str(name)
            inner = f"{key}.{name}" if key else name
            if name.startswith("_") or inner == _OF_HYDRA:
                continue
            yield from self.entry(name, value, inner, root, owner)

    def entry(self, name: str, value: Any, key: str, root: str, owner: Owner | None) -> Iterator[Row]:
        row = self.row(name, value, key, root, owner)
        annotation = Any if owner is None else owner.annotation(name)
        nested = dataclass_in(annotation)
        if isinstance(value, dict) and "_target_" in value:
            target = self.target(value)
            said = "" if owner is None else owner.meaning(name)
            row.meaning = said or (phrase(target.target) if target else "") or row.meaning
            yield replace(row, type=NODE, values=[])
            yield from self.node(value, key, root, None)
        elif isinstance(value, dict) and (nested is not None or has_target(value) or (annotation is Any and value)):
            row.meaning = row.meaning or (summary(nested) if nested is not None else "")
            if row.meaning:
                yield replace(row, type=NODE, values=[])
            yield from self.node(value, key, root, Owner(nested) if nested is not None else None)
        elif isinstance(value, list) and has_target(value):
            yield replace(row, values=[])
            for item in value:
                yield from self.node(item, f"{key}[]", root, None)
        else:
            yield replace(row, open=isinstance(value, dict))

    def row(self, name: str, value: Any, key: str, root: str, owner: Owner | None) -> Row:
        own = key.removeprefix(root).lstrip(".") if root else key
        line, note = self.file.notes.get(own, (0, ""))
        row = Row(key, values=[(self.file.option, value)], meaning=note, missing=f"{self.origin}:{line}")
        if owner is not None:
            annotation = owner.annotation(name)
            row.type = type_text(annotation)
            row.meaning = owner.meaning(name) or note
            row.owner = owner.name
            if owner.is_own:
                row.missing = "{}:{}".format(*place(owner.declares(name)))
        if not row.type or row.type == "any":
            row.type = _type_of(value)
        return row

    def target(self, data: dict[str, Any]) -> Owner | None:
        path = data.get("_target_")
        return Owner(locate(path)) if isinstance(path, str) and "${" not in path else None


UNSET = "???"  # required: an experiment sets it


def leaves_of(schema: type, nested_only: bool = True) -> dict[str, Any]:
    """Return the keys of a schema's nested dataclasses as a tree of defaults, `UNSET` where there is none."""
    found: dict[str, Any] = {}
    for f in dataclasses.fields(schema):
        nested = dataclass_in(parameters(schema).annotations.get(f.name))
        if nested is not None:
            found[f.name] = leaves_of(nested, nested_only=False)
        elif not nested_only:
            found[f.name] = UNSET if f.default is dataclasses.MISSING else f.default
    return found


def shown(value: Any) -> str:
    """Return a value as it is written in YAML, in one line."""
    if isinstance(value, str) and value != "null":
        return value
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def has_target(value: Any) -> bool:
    """Tell whether a node with a `_target_` is anywhere in a value."""
    if isinstance(value, dict):
        return "_target_" in value or any(has_target(v) for v in value.values())
    return isinstance(value, list) and any(has_target(v) for v in value)


def _type_of(value: Any) -> str:
    if value is None or value == "???" or (isinstance(value, str) and "${" in value):
        return "any"
    return {"list": "list", "dict": "mapping"}.get(type(value).__name__, type(value).__name__)
