"""Check: every node with a `_target_` is bound against its signature and its types before anything is built.

A key that reaches nothing is an error here, not a silent no-op: unknown parameters, missing ones, wrong types, targets
that swallow `**kwargs`, values still `???`, and overrides without any effect under the chosen mode.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException
from pydantic import Field, ValidationError

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Seed
from suite.config.compose import merge_errors, nearest, shorten
from suite.config.kinds import foreign
from suite.config.remedies import remedy_for, supply
from suite.config.signature import adapter, dataclass_in, locate, parameters, type_name
from suite.config.third_party import KWARGS_RECEIVER, RANGES, USUAL
from suite.config.wording import Built, Said, choices_in, declares, inside, is_mapping, is_node, type_text

Dead = Callable[[DictConfig], Mapping[str, str]]

_HYDRA_KEYS = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")
_BROKEN = object()  # a value that could not be read; its problem is already noted
_FOLDER = r"[A-Za-z0-9_+=,-][A-Za-z0-9._+=,-]{0,199}"  # the name becomes a folder, of 255 bytes at most


@dataclasses.dataclass
class Paths:
    """The keys of `paths` that the launcher uses."""

    runs: Annotated[str, NOT_EMPTY, Said("the path of a folder", "runs")]


class Typed:
    """Marks the dataclasses whose fields are the plain keys of a primary configuration."""


@dataclasses.dataclass
class Common(Typed):
    """The keys that every program's tree has; a program may subclass this to type its own plain nodes as well.

    Attributes:
        program: the program that the tree belongs to.
        name: the name of the experiment; its runs lie in `<paths.runs>/<name>/<hash>`.
        seed: the seed of initial weights, the order of the samples, augmentation and everything else that is drawn.
        resume: what becomes of an earlier attempt of the same run: `auto` continues it, or takes its result if it has
            finished; `never` starts anew and keeps it aside; `must` refuses to start without its checkpoint.
        paths: the folders that a run reads and writes; they change no number.
        launcher: who runs the jobs; null is the process of the command line itself, one after the other.
    """

    program: str
    name: Annotated[
        str,
        Field(pattern=rf"^{_FOLDER}(/{_FOLDER})*$"),
        Said("a folder's name of letters, digits and . _ + = , - that begins with none of the dots", "trial"),
    ]
    seed: Seed
    resume: Literal["auto", "never", "must"]
    paths: dict[str, Any]
    launcher: Annotated[Any, Built("suite.launchers.sweep.Launcher", "set launcher=processes")] | None = (
        dataclasses.field(default=None, kw_only=True)
    )


def check(cfg: DictConfig, schema: type | None = None, targets: bool = True) -> None:
    """Refuse a tree whose keys or values no constructor understands; build nothing.

    Args:
        cfg: the composed tree.
        schema: the dataclass of the plain (not `_target_`) nodes of the tree: its fields are the allowed top-level
            keys, their annotations the types, nested dataclasses the nested nodes, `Any` what is left alone. Without it
            the keys of `Common` are type-checked where they occur, other plain nodes are left alone.
        targets: whether nodes with a `_target_` are checked too, for which their classes are imported.

    Raises:
        UserError: one error with all problems of the tree.
    """
    problems: list[UserError] = []
    tree = _plain(cfg, "", problems)
    if schema is not None:
        _bind(schema, tree, "", problems)
    else:
        known = {f.name for f in dataclasses.fields(Common)}
        _bind(Common, {k: v for k, v in tree.items() if k in known}, "", problems, partial=True)
    if isinstance(tree.get("paths"), dict) and (schema is None or "runs" not in _nested_fields(schema, "paths")):
        _bind(Paths, {k: v for k, v in tree["paths"].items() if k == "runs"}, "paths", problems)
    if targets:
        problems += foreign(schema, tree)
        _walk(tree, "", problems)
    if problems:
        raise merge_errors(_distinct(problems, cfg), "configuration")


def _distinct(problems: list[UserError], cfg: DictConfig) -> list[UserError]:
    """Return the problems without those of a key that only refers to another one whose value is refused already."""

    def refers(key: str) -> bool:
        above, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, above) if above else cfg
        return isinstance(node, DictConfig) and name in node and OmegaConf.is_interpolation(node, name)

    copies = [p for p in problems if refers(p.where)]
    refused = {p.found for p in problems if p not in copies}
    return [p for p in problems if p not in copies or p.found not in refused]


def check_effective(
    cfg: DictConfig,
    overrides: Sequence[str],
    dead: Dead,
    compose_default: Callable[[list[str]], DictConfig] | None = None,
) -> None:
    """Refuse overrides that set a key without effect under the composed configuration, or change nothing of a mapping.

    Args:
        cfg: the tree composed with `overrides`.
        overrides: what the user typed for this job.
        dead: the function from a tree to its keys without effect, each with the reason (`"asgml.k": "asgml.mode is
            staleness"`). A key that names a node stands for everything below it.
        compose_default: the function that composes the tree from other overrides; an override that merely repeats what
            would stand there without it is harmless. Without this function every override of a dead key is refused.

    Raises:
        UserError: one error with all such overrides.
    """
    reasons = dead(cfg)
    problems = []
    parser = OverridesParser.create()
    lines = list(overrides)
    for line in lines:
        override = parser.parse_override(line)
        problems += _merged(line, override, cfg)
        for key in _leaves(override.key_or_group, override.value()):
            reason = next((r for d, r in reasons.items() if key == d or key.startswith(d + ".")), None)
            if reason is None:
                continue
            now = OmegaConf.select(cfg, key)
            if compose_default is not None:
                before = compose_default([other for other in lines if other != line])
                if OmegaConf.select(before, key) == now:
                    continue
            problems.append(
                UserError(
                    line,
                    f"{key} = {_show(now)} has no effect: {reason}",
                    "only keys that do something under this configuration",
                    f"leave {key} out, or change the setting that makes it idle",
                )
            )
    if problems:
        raise merge_errors(problems, "command line")


def _merged(line: str, override: Override, cfg: DictConfig) -> list[UserError]:
    """Return what is wrong with an empty mapping for a node that has entries: mappings are merged, and all stay."""
    node = OmegaConf.select(cfg, override.key_or_group, throw_on_missing=False)
    if override.is_delete() or override.value() != {} or not isinstance(node, DictConfig) or not node:
        return []
    kept = list(map(str, node))
    remedy = f"leave entries out one by one: {' '.join(f'~{override.key_or_group}.{name}' for name in kept[:3])}"
    found = f"an empty mapping, which changes nothing: it is merged with {shorten(kept)}"
    return [UserError(line, found, "entries to set, as {name:value}", remedy)]


def _plain(node: Any, key: str, problems: list[UserError]) -> Any:
    """Return resolved plain containers; what is missing or cannot be resolved is noted and becomes `_BROKEN`."""
    if not isinstance(node, DictConfig | ListConfig):
        return node
    if node._is_none():
        return None
    names: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    found: dict[Any, Any] = {}
    for name in names:
        inner = f"{key}.{name}" if key else str(name)
        found[name] = _BROKEN
        try:
            if OmegaConf.is_missing(node, name):
                problems.append(
                    UserError(inner, "no value (???)", "a value", f"set it: {inner}=VALUE on the command line")
                )
            else:
                found[name] = _plain(node[name], inner, problems)
        except InterpolationToMissingValueError:
            continue  # what it refers to is told as missing under its own key
        except OmegaConfBaseException as error:
            text = str(error).strip().splitlines()[0]
            problems.append(UserError(inner, text, "a reference to an existing key", f"set {inner}=VALUE"))
    return found if isinstance(node, DictConfig) else list(found.values())


def _walk(value: Any, key: str, problems: list[UserError]) -> None:
    if isinstance(value, dict):
        if "_target_" in value:
            _check_target(value, key, problems)
        for name, child in value.items():
            _walk(child, f"{key}.{name}" if key else str(name), problems)
    elif isinstance(value, list):
        for i, child in enumerate(value):
            _walk(child, f"{key}.{i}", problems)
    elif isinstance(value, float) and math.isnan(value) and all(p.where != key for p in problems):
        # compares false with every limit of a plain number, so that none refuses it
        problems.append(UserError(key, "nan", "a number", f"set {key}=VALUE with a number"))


def _check_target(node: dict[str, Any], key: str, problems: list[UserError]) -> None:
    path, partial = node["_target_"], node.get("_partial_", False)
    where = f"{key}._target_" if key else "_target_"
    if not isinstance(path, str):
        if path is not _BROKEN:
            remedy = f"set {where}=package.module.Name"
            problems.append(UserError(where, _show(path), "the dotted path of a class or function", remedy))
        return
    for flag in ("_partial_", "_recursive_"):
        if not isinstance(node.get(flag, False), bool):
            inner = f"{key}.{flag}"
            problems.append(UserError(inner, _show(node[flag]), "true or false", f"set {inner}=true or {inner}=false"))
    try:
        target = locate(path)
    except UserError as error:
        problems.append(UserError(f"{where}={path}", error.found, error.expected, error.remedy))
        return
    if not callable(target):
        remedy = f"set {where} to a class or function of {path.rpartition('.')[0]}"
        problems.append(UserError(f"{where}={path}", f"a {type(target).__name__}", "a class or function", remedy))
        return
    if any(p.where == f"{where}={path}" for p in problems):  # of a foreign kind: its parameters are beside the point
        return
    given = {k: v for k, v in node.items() if k not in _HYDRA_KEYS}
    try:
        positional = parameters(target).positional[: len(node.get("_args_", ()))]
    except (ValueError, TypeError):
        expected, remedy = "a target whose parameters have names", f"set {where} to a Python function that calls {path}"
        problems.append(UserError(f"{where}={path}", "Python knows no signature of it", expected, remedy))
        return
    _bind(target, given, key, problems, partial=partial is True, filled=positional, built=True)


def _bind(
    target: Callable[..., Any],
    given: dict[str, Any],
    key: str,
    problems: list[UserError],
    partial: bool = False,
    filled: Sequence[str] = (),
    built: bool = False,
) -> None:
    """Check names and types of `given` against the parameters of `target`.

    Args:
        target: a class or function; for a plain node its schema.
        given: the values by name.
        key: the node's place in the tree.
        problems: where problems are noted.
        partial: whether parameters may stay open.
        filled: the parameters that are set by position.
        built: whether the node has a `_target_`.
    """
    accepted = parameters(target)
    title = f"{target.__module__}.{getattr(target, '__qualname__', type(target).__name__)}"
    names, annotations = list(accepted.names), dict(accepted.annotations)
    if accepted.kwargs:
        if title not in KWARGS_RECEIVER:
            found = f"{title} takes **kwargs, where a misspelt key vanishes silently"
            remedy = f"set {key}._target_ to a function that names the parameters and calls {title}"
            problems.append(UserError(key, found, "a target with named parameters only", remedy))
            return
        receiver = parameters(locate(KWARGS_RECEIVER[title]))
        names += receiver.names
        annotations = {**receiver.annotations, **annotations}
    annotations |= RANGES.get(title, {})
    usual = accepted.defaults | USUAL.get(title, {})
    for name, value in given.items():
        inner = f"{key}.{name}" if key else str(name)
        if name not in names or name in filled:
            near = nearest(str(name), names)
            remedy = f"did you mean {' or '.join(near)}?" if near else f"leave {inner} out"
            problems.append(UserError(inner, f"{title} has no parameter {name!r}", f"one of: {shorten(names)}", remedy))
        elif name in annotations and not (value is None and accepted.defaults.get(name, _BROKEN) is None):
            _check_type(value, annotations[name], inner, problems, usual.get(name, _BROKEN))
    if not partial:
        for name in accepted.required:
            if name not in given and name not in filled:
                inner = f"{key}.{name}" if key else name
                needed = annotations.get(name)
                kind = "a value" if needed is None else type_text(needed) if declares(needed) else type_name(needed)
                remedy = supply(inner, needed)
                if built and key:
                    remedy += f", or +{key}._partial_=true where the code supplies it"
                problems.append(UserError(inner, f"missing, {title} needs it", kind, remedy))


def _check_type(value: Any, annotation: Any, key: str, problems: list[UserError], default: Any = _BROKEN) -> None:
    fields = dataclass_in(annotation)
    if fields is not None and isinstance(value, dict) and "_target_" not in value:
        _bind(fields, value, key, problems)
        return
    if is_node(annotation) and isinstance(value, dict) and "_target_" not in value:
        remedy = f"leave ~{key} out, or choose an option: {key}=NAME"
        problems.append(UserError(key, f"{_show(value)}, without a _target_", Built.words, remedy))
        return
    if _holds_node(value):
        # a node is checked on its own, and what it builds is not known yet; what stands beside it is checked here
        beside = value.items() if isinstance(value, dict) and "_target_" not in value else ()
        for name, child in enumerate(value) if isinstance(value, list) else beside:
            if (kind := inside(annotation, (name,))) is not None:
                _check_type(child, kind, f"{key}.{name}", problems)
        return
    types_of = adapter(annotation)
    if types_of is None:
        return
    try:
        # JSON mode: YAML, like JSON, has only lists, so that a list may fill a tuple; everything else is strict.
        types_of.validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        problems += _misfits(value, annotation, key, error, default)


def _misfits(value: Any, annotation: Any, key: str, error: ValidationError, default: Any) -> list[UserError]:
    """Return what is wrong with a value, one problem for each place in it that is at fault."""
    faults: dict[tuple[str | int, ...], str] = {}
    objects = set()  # places that take an object, which no plain value is
    for fault in error.errors(include_url=False):
        place = _place(value, fault["loc"])
        faults.setdefault(place, fault["msg"])
        if fault["type"] == "needs_python_object":
            objects.add(place)
    places = [place for place in faults if place] or [()]  # of a union, the branches that came farther
    problems = []
    for place in places:
        found = value
        for step in place:
            found = found[step]
        kind = inside(annotation, place)
        if kind is not None and is_node(kind):
            expected = Built.words
        elif kind is not None and is_mapping(kind) and not isinstance(found, dict):
            expected = "a mapping of names to values"
        elif kind is not None and (declares(kind) or choices_in(kind)):
            expected = type_text(kind)
        elif place in objects:
            expected = f"{Built.words}: {type_text(annotation if kind is None else kind)}"
        else:
            expected = type_name(annotation) + (f" ({faults[place]})" if len(faults) == 1 else "")
        where = ".".join(map(str, (key, *place)))
        remedy = remedy_for(key, place, found, kind, default, annotation)
        problems.append(UserError(where, f"{_show(found)} ({type(found).__name__})", expected, remedy))
    return problems


def _place(value: Any, loc: Sequence[str | int]) -> tuple[str | int, ...]:
    """Return the part of a validator's location that is a path into the value; names of union branches are not."""
    place: list[str | int] = []
    for step in loc:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            continue
        place.append(step)
    return tuple(place)


def _nested_fields(schema: type, name: str) -> tuple[str, ...]:
    nested = dataclass_in(parameters(schema).annotations.get(name))
    return parameters(nested).names if nested is not None else ()


def _holds_node(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(_holds_node(v) for v in value.values())
    if isinstance(value, list):
        return any(_holds_node(v) for v in value)
    return value is _BROKEN


def _leaves(key: str, value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        return [leaf for name, child in value.items() for leaf in _leaves(f"{key}.{name}", child)]
    return [key]


def _show(value: Any, limit: int = 60) -> str:
    text = repr(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
