"""What a configuration reads and what of it acts on nothing, asked of every target in its tree (see `reads`)."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from suite.config.signature import locate, parameters
from suite.runs.reads import BEHIND, DERIVED, GIVEN, INERT, Files

_HYDRA_KEYS = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")


def given_files(cfg: DictConfig) -> dict[str, Any]:
    """Return the files that the user gives, by dotted key and role (`data.path`, `data.path/train.csv`)."""
    return _ask(cfg, GIVEN)


def derived_files(cfg: DictConfig) -> dict[str, Any]:
    """Return the files that follow from configuration and inputs, as far as they exist, by dotted key and role."""
    return _ask(cfg, DERIVED)


def files_behind(cfg: DictConfig) -> list[Path]:
    """Return the files and folders that derived files are made of."""
    return [place for found in _answers(cfg, BEHIND).values() for place in found]


def all_files(cfg: DictConfig, earlier: Mapping[str, Path] | None = None) -> Files:
    """Return all files that a run reads.

    Args:
        cfg: the whole configuration.
        earlier: the files of earlier runs that this one stands on, by the key that names them.
    """
    return {**given_files(cfg), **derived_files(cfg), **(earlier or {})}


def inert(cfg: DictConfig) -> dict[str, str]:
    """Return the dotted keys that act on nothing at these values, each with the setting that makes it so."""
    return _ask(cfg, INERT)


def default_of(node: Mapping[str, Any], key: str) -> Any:
    """Return what the target of a node has for a key that is not given; `inspect.Parameter.empty` if nothing plain."""
    value = parameters(locate(node["_target_"])).defaults.get(key, inspect.Parameter.empty)
    return value if _plain(value) else inspect.Parameter.empty


def code(cfg: DictConfig) -> dict[str, str]:
    """Return twelve digits of the SHA-256 of the source file of every target in a tree, as it was first read."""
    found = {node["_target_"]: _source_hash(_function(locate(node["_target_"]))) for _, node in _nodes(cfg)}
    return {target: digest for target, digest in sorted(found.items()) if digest is not None}


def source_files(cfg: DictConfig) -> list[str]:
    """Return the source files of all targets in a tree, those of other people's packages included."""
    found = {_source(_function(locate(node["_target_"]))) for _, node in _nodes(cfg)}
    return sorted(path for path in found if path is not None)


def changed_code(then: Mapping[str, str] | None, now: Mapping[str, str]) -> list[str]:
    """Return the targets whose source file is another one than it was."""
    return [target for target, digest in (then or {}).items() if now.get(target, digest) != digest]


def _nodes(cfg: DictConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every node with a `_target_` and its dotted key, values resolved."""

    def walk(value: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(value, dict):
            if isinstance(value.get("_target_"), str):
                yield key, value
            for name, child in value.items():
                yield from walk(child, f"{key}.{name}" if key else str(name))
        elif isinstance(value, list):
            for i, child in enumerate(value):
                yield from walk(child, f"{key}.{i}")

    return walk(OmegaConf.to_container(cfg, resolve=True), "")


def _ask(cfg: DictConfig, question: str) -> dict[str, Any]:
    """Return what every target answers, by dotted key and role."""
    return {f"{key}.{role}": told for key, answer in _answers(cfg, question).items() for role, told in answer.items()}


def _answers(cfg: DictConfig, question: str) -> dict[str, Any]:
    """Return what every target answers, by the dotted key of its node."""
    found: dict[str, Any] = {}
    for key, node in _nodes(cfg):
        target = locate(node["_target_"])
        answer = getattr(target, question, None)
        if answer is not None:
            values = {k: v for k, v in parameters(target).defaults.items() if _plain(v)}
            values |= {k: v for k, v in node.items() if k not in _HYDRA_KEYS}
            found[key] = answer(values)
    return found


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _function(target: Any) -> Any:
    return inspect.unwrap(getattr(target, "__func__", target))


def _source(target: Any) -> str | None:
    try:
        return inspect.getsourcefile(target)
    except TypeError:  # built in
        return None


@functools.cache
def _source_hash(target: Any) -> str | None:
    path = _source(target)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] if path and Path(path).is_file() else None
