"""The label of a configuration: the keys in which it differs from the others it is compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from suite.runs.identity import NOT_MEANINGFUL

IGNORED = {*NOT_MEANINGFUL, "seed", "label", "hydra", "program"}
# Left out of a label where the rest still tells the configurations apart.
NEUTRAL = ("method=joint", "mode=sync", "method=none", "tau=0", "k=1")  # and what to call a label of nothing else
PLURALS = {"methods": "method"}  # mappings of named components, labelled by the names they hold
MODALITY_KEYED = {"group_lr"}  # top-level mappings whose keys need their parent's name

Parts = list[list[str]]


def labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """One label per resolved config, e.g. `method=ogm_ge` or `mode=staleness tau=2`.

    A config's own `label` is used as it stands; where two configs that differ in meaning carry the same one,
    their differences are added, so that they are never pooled. Configs that differ in nothing but ignored keys
    (the seed among them) get equal labels.
    """
    parts = _differences(list(configs))
    neutral = [[p for p in row if p not in _dropped(row)] for row in parts]
    short = [" ".join(row or [p for p in NEUTRAL if p in whole][:1]) for row, whole in zip(neutral, parts)]
    full = [" ".join(row) for row in parts]
    # A short label stands where it names exactly the configurations that its full label names.
    owner: dict[str, set[str]] = {}
    for brief, whole in zip(short, full):
        owner.setdefault(brief, set()).add(whole)
    out = [brief if brief and len(owner[brief]) == 1 else whole for brief, whole in zip(short, full)]
    out = [text or _own_name(config) for text, config in zip(out, configs)]
    for given in {str(c["label"]) for c in configs if c.get("label")}:
        members = [i for i, c in enumerate(configs) if str(c.get("label") or "") == given]
        inner = [" ".join(row) for row in _differences([configs[i] for i in members])]
        for i, text in zip(members, inner):
            out[i] = f"{given} {text}".strip()
    return out


def _dropped(row: list[str]) -> tuple[str, ...]:
    """Neutral parts; a delay or period of an asynchronous mode is none, even where it is 0 or 1."""
    return NEUTRAL if "mode=sync" in row else NEUTRAL[:3]


def is_neutral(label: str) -> bool:
    """Whether a label says nothing but that no method and no schedule acts: the natural baseline."""
    return label == "joint" or set(label.split()) <= set(NEUTRAL)


def _own_name(config: Mapping[str, Any]) -> str:
    return str(config.get("name") or "run")


def _differences(configs: list[Mapping[str, Any]]) -> Parts:
    parts: Parts = [[] for _ in configs]
    _walk({i: _portable(config, config.get("paths") or {}) for i, config in enumerate(configs)}, (), parts)
    return parts


def _portable(value: Any, paths: Mapping[str, Any]) -> Any:
    """The config with strings below one of its `paths` told relative to it: where files lie is no difference."""
    if isinstance(value, Mapping):
        return {k: _portable(v, paths) for k, v in value.items()}
    if isinstance(value, list):
        return [_portable(v, paths) for v in value]
    for name, root in paths.items():
        if isinstance(value, str) and (value == root or value.startswith(f"{root}/")):
            return f"<{name}>{value[len(str(root)) :]}"
    return value


def _walk(nodes: dict[int, Any], path: tuple[str, ...], parts: Parts) -> None:
    """nodes: config number -> its value at `path`; appends a part for each config where the values differ."""
    if ".".join(path) in IGNORED or len(nodes) < 2 or _equal(nodes.values()):
        return
    if not all(isinstance(node, Mapping) for node in nodes.values()):
        _emit(nodes, path, parts)
        return
    plural = PLURALS.get(path[0]) if len(path) == 1 else None
    kinds = {i: "+".join(node) or "none" if plural else str(node.get("_target_", "")) for i, node in nodes.items()}
    if len(set(kinds.values())) > 1:  # other components: name them, and compare details only among equals
        for i, kind in kinds.items():
            parts[i].append(f"{plural or path[-1]}={kind.rpartition('.')[2] or 'none'}")
        for kind in dict.fromkeys(kinds.values()):
            _keys({i: node for i, node in nodes.items() if kinds[i] == kind}, path, parts)
        return
    _keys(nodes, path, parts)


def _keys(nodes: dict[int, Any], path: tuple[str, ...], parts: Parts) -> None:
    for key in dict.fromkeys(k for node in nodes.values() for k in node if k != "_target_"):
        inner = {i: node[key] for i, node in nodes.items() if key in node}
        here = (*path, str(key))
        if len(inner) < len(nodes) and ".".join(here) not in IGNORED:  # absent in some: always a difference
            _emit(inner, here, parts)
        else:
            _walk(inner, here, parts)


def _emit(nodes: dict[int, Any], path: tuple[str, ...], parts: Parts) -> None:
    deep = len(path) > 2 or path[0] in MODALITY_KEYED
    name = ".".join(path[-2:]) if deep else path[-1]
    for i, value in nodes.items():
        parts[i].append(f"{PLURALS.get(name, name)}={_short(value)}")


def _short(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        target = value.get("_target_")
        return str(target).rpartition(".")[2] if target else json.dumps(value, default=str, separators=(",", ":"))
    if isinstance(value, (list, tuple)):
        return "+".join(map(_short, value)) or "none"
    return str(value)


def _equal(values: Any) -> bool:
    first, *rest = [json.dumps(v, sort_keys=True, default=str) for v in values]
    return all(v == first for v in rest)
