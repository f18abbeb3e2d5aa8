"""What a `_target_` is and what it accepts: the object, its parameters, their types."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any

from hydra._internal.utils import _locate
from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter
from pydantic_core import SchemaError

from callbacks.errors import UserError
from suite.config.compose import nearest

_UNCHECKABLE = (PydanticSchemaGenerationError, PydanticUserError, SchemaError, NameError, TypeError)

UNRESOLVED = object()  # of an annotation that cannot be resolved


def locate(path: str) -> Any:
    """Return the object that a `_target_` names.

    Raises:
        UserError: no such object, with the names nearest to the part that is missing, or a module whose import fails.
    """
    try:
        return _locate(path)
    except Exception as error:
        parent, names = _deepest(path)
        missing = path[len(parent) :].strip(".").split(".")[0] if path != parent else path
        if missing in names:
            found = f"importing {parent}.{missing} fails: {_root_cause(error)}"
            remedy = f"install what is missing (pip install), or make `python -c 'import {parent}.{missing}'` work"
            raise UserError(path, found, "an importable module", remedy) from error
        near = [f"{parent}.{n}" if parent else n for n in nearest(missing, names)]
        raise UserError(
            path,
            f"{parent or 'Python'} has no {missing!r}",
            "the dotted path of a class or function",
            f"did you mean {' or '.join(near)}?" if near else "set _target_ to package.module.Name",
        ) from error


@dataclasses.dataclass(frozen=True)
class Parameters:
    """What a target accepts.

    Attributes:
        names: the parameters that may be given by name.
        required: those of them without a default.
        positional: the parameters that may be given by position, in order.
        kwargs: whether the target takes any other name.
        annotations: the resolved type by parameter; one whose annotation cannot be resolved is absent.
        defaults: the default by parameter.
    """

    names: tuple[str, ...]
    required: tuple[str, ...]
    positional: tuple[str, ...]
    kwargs: bool
    annotations: dict[str, Any]
    defaults: dict[str, Any]


@functools.lru_cache(maxsize=1024)
def parameters(target: Callable[..., Any]) -> Parameters:
    """Return what a class or function accepts, `self` left out.

    Raises:
        ValueError: Python knows no signature of it.
    """
    kinds = inspect.Parameter
    listed = list(inspect.signature(target).parameters.values())
    named = [p for p in listed if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    hints = {p.name: _hint(target, p) for p in named}
    return Parameters(
        names=tuple(p.name for p in named),
        required=tuple(p.name for p in named if p.default is kinds.empty),
        positional=tuple(p.name for p in listed if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)),
        kwargs=any(p.kind is kinds.VAR_KEYWORD for p in listed),
        annotations={name: hint for name, hint in hints.items() if hint not in (kinds.empty, Any)},
        defaults={p.name: _default(target, p) for p in named if p.default is not kinds.empty},
    )


def _default(target: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the default of a parameter; of a dataclass's field with a factory, what the factory makes."""
    made = getattr(target, "__dataclass_fields__", {}).get(parameter.name)
    if made is not None and made.default_factory is not dataclasses.MISSING:
        return made.default_factory()
    return parameter.default


def _hint(target: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the annotation of one parameter, resolved on its own: one bad name does not hide the others."""
    owner = target.__init__ if inspect.isclass(target) else target
    if dataclasses.is_dataclass(target) and inspect.isclass(target):
        for base in target.__mro__:  # an inherited field is written in the namespace of the module it stands in
            own = inspect.get_annotations(base)
            if parameter.name in own:
                return _resolve(own[parameter.name], importlib.import_module(base.__module__).__dict__)
    while hasattr(owner, "__wrapped__"):
        owner = owner.__wrapped__
    return _resolve(parameter.annotation, getattr(owner, "__globals__", {}))


def resolved(function: Callable[..., Any]) -> Any:
    """Return the annotation of what a function returns, resolved; `inspect.Parameter.empty` where there is none.

    One that names what is there for type checkers only is `UNRESOLVED`: nothing can be told.
    """
    owner = inspect.unwrap(function)
    found = getattr(owner, "__annotations__", {}).get("return", inspect.Parameter.empty)
    known = _resolve(found, getattr(owner, "__globals__", {}))
    return UNRESOLVED if known is inspect.Parameter.empty and found is not inspect.Parameter.empty else known


def _resolve(annotation: Any, namespace: dict[str, Any]) -> Any:
    holder = types.SimpleNamespace(__annotations__={"x": annotation})
    try:
        return typing.get_type_hints(holder, globalns=namespace, include_extras=True)["x"]
    except (NameError, TypeError, AttributeError, SyntaxError):
        return inspect.Parameter.empty  # third-party names that exist for type checkers only


def adapter(annotation: Any) -> TypeAdapter[Any] | None:
    """Return the validator of an annotation; None where pydantic has none (a Protocol, an exotic third-party type)."""
    try:
        return _cached_adapter(annotation)
    except TypeError:  # not hashable
        return _cached_adapter.__wrapped__(annotation)


@functools.lru_cache(maxsize=4096)
def _cached_adapter(annotation: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            return None
    except _UNCHECKABLE:
        return None
    try:
        return TypeAdapter(annotation)  # dataclass, TypedDict: they bring their own config
    except _UNCHECKABLE:
        return None


def dataclass_in(annotation: Any) -> type | None:
    """Return the dataclass D of an annotation `D` or `D | None`, None for any other."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    options = typing.get_args(annotation) if union else ()
    found = [a for a in (options or (annotation,)) if inspect.isclass(a) and dataclasses.is_dataclass(a)]
    return found[0] if len(found) == 1 else None


def type_name(annotation: Any) -> str:
    """Return an annotation as a user would write it."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return inspect.formatannotation(annotation).replace("typing.", "")


def _deepest(path: str) -> tuple[str, list[str]]:
    """Return the longest importable part of a dotted path and the names it offers."""
    parts = [p for p in path.split(".") if p]
    for end in range(len(parts) - 1, 0, -1):
        try:
            found = _locate(".".join(parts[:end]))
        except Exception:  # noqa: BLE001 (a broken module offers no names; the next shorter one may)
            continue
        names = [n for n in dir(found) if not n.startswith("_")]
        if hasattr(found, "__path__"):
            names += [m.name for m in pkgutil.iter_modules(found.__path__)]
        return ".".join(parts[:end]), names
    return "", [m.name for m in pkgutil.iter_modules()]


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
