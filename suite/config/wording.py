"""Types in words: what a parameter takes, as documentation and errors say it."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal

from pydantic_core import CoreSchema, core_schema

from callbacks.ranges import Bounds, NotEmpty

NODE = "node"


@dataclasses.dataclass(frozen=True)
class Built:
    """Declares that a value is built from a node with a `_target_`; no other value is accepted.

    Attributes:
        kind: the dotted path of the class or protocol of what is built, see `suite.config.kinds`; None: anything.
        remedy: what to type in the place of a target of another kind, with `{key}` for the node's key; None: its group.
    """

    words: ClassVar[str] = "a node with a _target_"

    kind: str | None = None
    remedy: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Return the schema of plain values, which refuses all of them: nodes are bound to their targets."""
        return core_schema.no_info_plain_validator_function(self._refuse)

    def _refuse(self, value: Any) -> Any:
        raise ValueError(self.words)


@dataclasses.dataclass(frozen=True)
class Said:
    """Says what a text has to be, where its type does not.

    Attributes:
        words: what it has to be.
        example: one that is.
    """

    words: str
    example: str


def type_text(annotation: Any) -> str:
    """Return an annotation in words; a number with a declared range in the words of the range."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _annotated(arguments)
    if annotation in (Any, inspect.Parameter.empty):
        return "any"
    if annotation in (None, NoneType):
        return "null"
    if origin is Literal:
        return _one_of(arguments)
    if origin in (typing.Union, UnionType):
        listed = [v for a in arguments if typing.get_origin(a) is Literal for v in typing.get_args(a)]
        words = [type_text(a) for a in arguments if typing.get_origin(a) is not Literal]
        return " or ".join(dict.fromkeys([*([_one_of(listed)] if listed else []), *words]))
    if origin is not None and isinstance(origin, type):
        inside = [type_text(a) for a in arguments if a is not ...]
        if issubclass(origin, Mapping):
            return f"{{{inside[0]}: {inside[1]}}}"
        if issubclass(origin, tuple):
            return f"[{', '.join(inside)}]"
        if issubclass(origin, list) or origin.__name__ in ("Sequence", "Iterable"):
            return f"list of {inside[0]}"
        return NODE
    return str(getattr(annotation, "__name__", annotation))


def _annotated(arguments: tuple[Any, ...]) -> str:
    kind, *notes = arguments
    found = next((note for note in notes if isinstance(note, Bounds | Built | Said)), None)
    if found is not None:
        return found.words
    return ("non-empty " if any(isinstance(note, NotEmpty) for note in notes) else "") + type_text(kind)


def _one_of(values: Iterable[Any]) -> str:
    words = list(dict.fromkeys(map(str, values)))
    return words[0] if len(words) == 1 else "one of " + ", ".join(words)


def choices_in(annotation: Any) -> list[str]:
    """Return the values that an annotation takes, as they are typed, where it takes those of a list alone; else []."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return [str(value) for value in arguments]
    if origin in (typing.Union, UnionType):
        parts = [choices_in(a) for a in arguments if a is not NoneType]
        return [name for part in parts for name in part] if all(parts) else []
    return []


def bounds_in(annotation: Any) -> Bounds | None:
    """Return the first range that an annotation declares for a number itself, not for what a list or mapping holds."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return next((note for note in arguments[1:] if isinstance(note, Bounds)), None)
    if origin in (typing.Union, UnionType):
        return next((found for found in map(bounds_in, arguments) if found is not None), None)
    return None


def is_node(annotation: Any) -> bool:
    """Return whether an annotation takes nothing but what a node with a `_target_` builds, or null."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, UnionType):
        return all(a is NoneType or is_node(a) for a in arguments)
    return origin is Callable or (origin is Annotated and any(isinstance(note, Built) for note in arguments[1:]))


def is_mapping(annotation: Any) -> bool:
    """Return whether an annotation takes nothing but a mapping or the keys of a dataclass, or null."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return is_mapping(arguments[0])
    if origin in (typing.Union, UnionType):
        return all(a is NoneType or is_mapping(a) for a in arguments)
    return dataclasses.is_dataclass(annotation) or (isinstance(origin, type) and issubclass(origin, Mapping))


def nullable(annotation: Any) -> bool:
    """Return whether an annotation takes null."""
    return NoneType in typing.get_args(annotation) or annotation in (None, NoneType)


def declares(annotation: Any) -> bool:
    """Return whether an annotation holds a range, or what something has to be in words, anywhere."""
    if typing.get_origin(annotation) is Annotated:
        return any(
            isinstance(note, Bounds | NotEmpty | Built | Said) for note in typing.get_args(annotation)[1:]
        ) or declares(typing.get_args(annotation)[0])
    return any(declares(a) for a in typing.get_args(annotation))


def undeclared(annotation: Any) -> bool:
    """Return whether an annotation holds a number without a range anywhere."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return not any(isinstance(note, Bounds) for note in arguments[1:]) and undeclared(arguments[0])
    if origin is Literal:
        return False
    return annotation in (int, float) or any(undeclared(a) for a in arguments)


def inside(annotation: Any, path: Sequence[str | int]) -> Any:
    """Return the annotation of what lies at a path of names and indices below a value; None where it cannot be told."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if not path:
        return annotation
    if origin is Annotated:
        return inside(arguments[0], path)
    if origin in (typing.Union, UnionType):
        found = [a for a in (inside(option, path) for option in arguments) if a is not None]
        return found[0] if len(found) == 1 else None
    if not isinstance(origin, type) or not arguments:
        return None
    first, rest = path[0], path[1:]
    if issubclass(origin, Mapping):
        return inside(arguments[1], rest) if isinstance(first, str) else None
    if isinstance(first, str):
        return None
    if issubclass(origin, tuple) and arguments[-1] is not ...:
        return inside(arguments[first], rest) if first < len(arguments) else None
    return inside(arguments[0], rest)
