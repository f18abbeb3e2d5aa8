"""What a node builds, held against what its place in the tree takes: a target of a foreign kind is refused unbuilt.

What a place takes is the type of its parameter: a class, `Callable[..., Class]` for a node that leaves parameters open,
or `Built("package.Class")` in the schema of a tree, which names classes without importing them. What a target builds is
the class that it is, or the declared result of a function.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar

from callbacks.errors import UserError
from suite.config.signature import UNRESOLVED, dataclass_in, locate, parameters, resolved
from suite.config.wording import Built, inside


@dataclasses.dataclass(frozen=True)
class Kind:
    """Says what a place in the tree takes.

    Attributes:
        classes: classes or protocols, one of which a target has to build.
        remedy: what to type instead, with `{key}` for the place.
    """

    classes: tuple[type, ...]
    remedy: str = "leave {key}._target_ out, or choose {key} by its group"


def foreign(schema: type | None, tree: dict[str, Any]) -> Iterator[UserError]:
    """Yield every node of a tree whose target builds something else than what its place takes.

    Args:
        schema: the dataclass of the plain nodes, see `suite.config.check.check`.
        tree: plain containers. Targets that are not there or cannot be called are left to the check of nodes.
    """
    yield from _within(tree, {} if schema is None else parameters(schema).annotations, "")


def _within(values: dict[str, Any], annotations: dict[str, Any], key: str) -> Iterator[UserError]:
    for name, value in values.items():
        yield from _walk(value, annotations.get(name), f"{key}.{name}" if key else str(name))


def _walk(value: Any, annotation: Any, key: str) -> Iterator[UserError]:
    if isinstance(value, list):
        for i, child in enumerate(value):
            yield from _walk(child, inside(annotation, (i,)), f"{key}.{i}")
    if not isinstance(value, dict):
        return
    path = value.get("_target_")
    if path is None:
        plain = dataclass_in(annotation)
        known = {name: inside(annotation, (name,)) for name in map(str, value)}
        yield from _within(value, known if plain is None else parameters(plain).annotations, key)
        return
    try:
        target = locate(path) if isinstance(path, str) else None
    except UserError:
        return
    if not callable(target):
        return
    kind = kind_of(annotation)
    found = None if kind is None else misfit(target, kind.classes)
    if kind is not None and found is not None:
        expected = " or ".join(map(in_words, kind.classes))
        yield UserError(f"{key}._target_={path}", found, expected, kind.remedy.format(key=key))
        return
    try:
        known = parameters(target).annotations
    except (ValueError, TypeError):
        return
    yield from _within({k: v for k, v in value.items() if not str(k).startswith("_")}, known, key)


def kind_of(annotation: Any) -> Kind | None:
    """Return what an annotation takes; None where it does not say, or takes plain values as well."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        built = next((note for note in arguments[1:] if isinstance(note, Built)), None)
        if built is None or built.kind is None:
            return kind_of(arguments[0])
        own = Kind((locate(built.kind),))
        return own if built.remedy is None else dataclasses.replace(own, remedy=built.remedy)
    if origin in (typing.Union, UnionType):
        options = [kind_of(a) for a in arguments if a is not NoneType]
        found = [option for option in options if option is not None]
        if not found or len(found) < len(options):
            return None
        return dataclasses.replace(found[0], classes=tuple(c for option in found for c in option.classes))
    if origin is Callable and len(arguments) == 2:
        return kind_of(arguments[1])
    return Kind((annotation,)) if _is_class(annotation) and annotation.__module__ != "builtins" else None


def misfit(target: Callable[..., Any], wanted: tuple[type, ...]) -> str | None:
    """Say what a target builds if that is none of the classes wanted; None where it is one."""
    if inspect.isclass(target):
        return None if any(_is(target, kind) for kind in wanted) else "a class of another kind"
    if resolved(target) is UNRESOLVED:
        return None
    made = results(target)
    if not made:
        return "a function that does not declare what it returns"
    other = next((c for c in made if not any(_is(c, kind) for kind in wanted)), None)
    return None if other is None else f"a function that returns {name_of(other)}"


def results(function: Callable[..., Any]) -> tuple[type, ...]:
    """Return the classes that a function declares to return; () where it declares none, or something else."""
    return _classes(resolved(function), function)


def _classes(annotation: Any, function: Callable[..., Any]) -> tuple[type, ...]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is typing.Self:
        owner = getattr(function, "__self__", None)
        return (owner,) if inspect.isclass(owner) else ()
    if isinstance(annotation, TypeVar):
        return _classes(annotation.__bound__, function)
    if origin is Annotated:
        return _classes(arguments[0], function)
    if origin in (typing.Union, UnionType):
        parts = [_classes(a, function) for a in arguments if a is not NoneType]
        return tuple(c for part in parts for c in part) if all(parts) else ()
    annotation = origin or annotation
    return (annotation,) if _is_class(annotation) else ()


def _is_class(annotation: Any) -> bool:
    return inspect.isclass(annotation) and annotation not in (Any, inspect.Parameter.empty)


def _is(found: type, kind: type) -> bool:
    return all(hasattr(found, name) for name in methods(kind)) if is_protocol(kind) else issubclass(found, kind)


def is_protocol(kind: type) -> bool:
    """Return whether a class is a protocol, which others need not derive from."""
    return bool(getattr(kind, "_is_protocol", False))


def methods(protocol: type) -> list[str]:
    """Return the names of what a protocol has of methods."""
    own = (base for base in protocol.__mro__ if is_protocol(base))
    return sorted({n for base in own for n, f in vars(base).items() if not n.startswith("_") and callable(f)})


def in_words(kind: type) -> str:
    """Say what a target has to be to build a class."""
    if is_protocol(kind):
        return f"a class with the methods of {name_of(kind)}: {', '.join(methods(kind))}"
    return f"{name_of(kind)}, a class derived from it or a function that declares to return one"


def name_of(kind: type) -> str:
    """Return the shortest path that a class is public under."""
    parts, name = kind.__module__.split("."), kind.__qualname__
    if parts == ["builtins"]:
        return name
    above = (".".join(parts[:n]) for n in range(1, len(parts)))
    public = (module for module in above if getattr(importlib.import_module(module), name, None) is kind)
    return f"{next(public, kind.__module__)}.{name}"
