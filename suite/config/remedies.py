"""Remedies: what to type in the place of a value that a parameter does not take."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal

from callbacks.ranges import Bounds
from suite.config.wording import Said, bounds_in, choices_in, is_mapping, is_node, nullable


def remedy_for(key: str, place: Sequence[str | int], found: Any, kind: Any, default: Any, whole: Any) -> str:
    """Return what to type: the parameter's default, an example of the range, null where it is taken, or a choice.

    Args:
        key: the parameter's key.
        place: where in its value the fault is.
        found: the value there.
        kind: the annotation of that place; None where it cannot be told.
        default: the parameter's default, any object that is no plain value where there is none.
        whole: the annotation of the parameter.
    """
    if kind is not None and is_node(kind):
        where = ".".join(map(str, (key, *place)))
        return f"set {where}=null" if nullable(kind) else f"leave {where} out, or choose it by its group"
    if kind is not None and is_mapping(kind) and not isinstance(found, dict):
        where = ".".join(map(str, (key, *place)))
        rest = "set it to null" if nullable(kind) else f"leave {where} out"
        return f"{rest}; its entries are set one by one, as {where}.NAME=VALUE"
    close = get_close_matches(found, [] if kind is None else choices_in(kind), n=1) if isinstance(found, str) else []
    if close and all(isinstance(step, str) for step in place):
        return f"did you mean {'++' if place else ''}{'.'.join(map(str, (key, *place)))}={close[0]}?"
    known = isinstance(default, bool | int | float | list | tuple | dict)
    if known or (isinstance(default, str) and re.fullmatch(r"[\w./-]+", default)):
        return f"set {key}={typed(default)}"
    bounds = None if kind is None else bounds_in(kind)
    entry = bool(place) and all(isinstance(step, str) for step in place)
    if bounds is not None and bounds.example is not None and (entry or (not place and default is not None)):
        where = ".".join(map(str, (key, *place)))
        return f"set {'++' if entry else ''}{where}={bounds.example}"
    if default is None or (not place and kind is not None and nullable(kind)):
        return f"set {key}=null"
    kind, where = (kind, ".".join(map(str, (key, *place)))) if entry or not place else (whole, key)
    taken = None if kind is None else example(kind)
    if taken is not None:
        return f"set {'++' if entry else ''}{where}={typed(taken)}"
    return f"set {key}=VALUE with a value of that type"


def supply(key: str, needed: Any) -> str:
    """Return what to do about a key that is missing; parts, which no short value makes, are there unless taken out."""
    if needed is not None and (is_node(needed) or is_mapping(needed)):
        return f"leave ~{key} out"
    usable = None if needed is None else example(needed)
    return f"set +{key}={'VALUE' if usable is None else typed(usable)}"


def example(annotation: Any) -> Any:
    """Return a plain value that an annotation takes, an end of a range or its least whole number; None: not known."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        said = next((note for note in arguments[1:] if isinstance(note, Said)), None)
        if said is not None:
            return said.example
        bounds = next((note for note in arguments[1:] if isinstance(note, Bounds)), None)
        return example(arguments[0]) if bounds is None else _within(bounds)
    if origin is Literal:
        return arguments[0]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {}
    if origin in (typing.Union, UnionType):
        return next((found for a in arguments if a is not NoneType and (found := example(a)) is not None), None)
    if isinstance(origin, type) and issubclass(origin, list | tuple) and arguments:
        inner = [example(a) for a in arguments if a is not ...]
        return None if None in inner else inner
    return None


def _within(bounds: Bounds) -> float | None:
    if bounds.example is not None or bounds.ge is not None:
        return bounds.ge if bounds.example is None else bounds.example
    top = min(bound for bound in (bounds.le, bounds.lt, float("inf")) if bound is not None)
    if bounds.gt is not None and bounds.gt < 1 < top:
        return 1
    return None if bounds.gt is None else (bounds.gt + top) / 2


def typed(value: Any) -> str:
    """Return a value as it is typed on a command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(typed, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{k}:{typed(v)}' for k, v in value.items())}}}"
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))
