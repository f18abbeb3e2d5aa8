"""The label of a configuration: the keys in which it differs from the others it is compared with."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from suite.runs.identity import NOT_MEANINGFUL

IGNORED = {*NOT_MEANINGFUL, "seed", "label", "hydra", "program"}
TOLD_WITH_PARENT = {"group_lr"}  # mappings at the top of a tree whose keys say too little alone

Differences = list[list[tuple[str, str]]]  # of each config the dotted keys in which it differs, each with what is told


@dataclass(frozen=True)
class Labels:
    """What a program's configurations are called.

    Attributes:
        neutral: the parts that a label leaves out where the rest still tells the configurations apart, each with the
            part beside which alone it is left out ("" for always); a label of nothing else is the first of them.
        baseline: the own label that marks the natural baseline, as a label of neutral parts does.
        plurals: the mappings at the top of a tree that hold named components, each with the word for one of them.
        idle: the function from a resolved config to the dotted keys that act on nothing in it, which are not told.
    """

    neutral: Mapping[str, str] = field(default_factory=dict)
    baseline: str = ""
    plurals: Mapping[str, str] = field(default_factory=dict)
    idle: Callable[[Mapping[str, Any]], Collection[str]] = lambda config: ()

    def is_baseline(self, label: str) -> bool:
        """Return whether a label says nothing but that nothing acts."""
        return label == self.baseline or set(label.split()) <= set(self.neutral)

    def shorten(self, parts: list[str]) -> str:
        """Leave out what is neutral; of a label of nothing else, keep the first such part."""
        told = [p for p in parts if p not in self.neutral or self.neutral[p] not in ("", *parts)]
        return " ".join(told) or next((p for p in self.neutral if p in parts), "")


def labels(configs: Sequence[Mapping[str, Any]], rules: Labels) -> list[str]:
    """Label every resolved config with the keys in which it differs from the others, e.g. `lr=0.1 size=2`.

    A config's own `label` is used as it stands; where two configs that differ in meaning carry the same one, their
    differences are added, so that they are never pooled. Configs that differ in nothing but ignored keys (the seed
    among them) get equal labels.
    """
    parts = _differences(list(configs), rules)
    short, full = [rules.shorten(row) for row in parts], [" ".join(row) for row in parts]
    # A short label stands where it names exactly the configurations that its full label names.
    owner: dict[str, set[str]] = {}
    for brief, whole in zip(short, full):
        owner.setdefault(brief, set()).add(whole)
    out = [brief if brief and len(owner[brief]) == 1 else whole for brief, whole in zip(short, full)]
    out = [text or str(config.get("name") or "run") for text, config in zip(out, configs)]
    for given in {str(c["label"]) for c in configs if c.get("label")}:
        members = [i for i, c in enumerate(configs) if str(c.get("label") or "") == given]
        for i, row in zip(members, _differences([configs[i] for i in members], rules)):
            out[i] = " ".join([given, *row])
    return out


def _differences(configs: list[Mapping[str, Any]], rules: Labels) -> list[list[str]]:
    parts: Differences = [[] for _ in configs]
    _walk({i: portable(config, config.get("paths") or {}) for i, config in enumerate(configs)}, (), parts, rules)
    idle = [set(rules.idle(config)) for config in configs]
    return [[text for key, text in row if key not in never] for row, never in zip(parts, idle)]


def portable(value: Any, paths: Mapping[str, Any]) -> Any:
    """Tell strings below one of the config's `paths` relative to it: where files lie is no difference."""
    if isinstance(value, Mapping):
        return {k: portable(v, paths) for k, v in value.items()}
    if isinstance(value, list):
        return [portable(v, paths) for v in value]
    for name, root in paths.items():
        if isinstance(value, str) and (value == root or value.startswith(f"{root}/")):
            return f"<{name}>{value[len(str(root)) :]}"
    return value


def _walk(nodes: dict[int, Any], path: tuple[str, ...], parts: Differences, rules: Labels) -> None:
    """Append a part for each config where the values differ; nodes: config number -> its value at `path`."""
    if ".".join(path) in IGNORED or len(nodes) < 2 or _equal(nodes.values()):
        return
    if not all(isinstance(node, Mapping) for node in nodes.values()):
        _emit(nodes, path, parts, rules)
        return
    plural = rules.plurals.get(path[0]) if len(path) == 1 else None
    kinds = {i: "+".join(node) or "none" if plural else str(node.get("_target_", "")) for i, node in nodes.items()}
    if len(set(kinds.values())) > 1:  # other components: name them, and compare details only among equals
        for i, kind in kinds.items():
            parts[i].append((".".join(path), f"{plural or path[-1]}={kind.rpartition('.')[2] or 'none'}"))
        for kind in dict.fromkeys(kinds.values()):
            _keys({i: node for i, node in nodes.items() if kinds[i] == kind}, path, parts, rules)
        return
    _keys(nodes, path, parts, rules)


def _keys(nodes: dict[int, Any], path: tuple[str, ...], parts: Differences, rules: Labels) -> None:
    for key in dict.fromkeys(k for node in nodes.values() for k in node if k != "_target_"):
        inner = {i: node[key] for i, node in nodes.items() if key in node}
        here = (*path, str(key))
        if len(inner) < len(nodes) and ".".join(here) not in IGNORED:  # absent in some: always a difference
            _emit(inner, here, parts, rules)
        else:
            _walk(inner, here, parts, rules)


def _emit(nodes: dict[int, Any], path: tuple[str, ...], parts: Differences, rules: Labels) -> None:
    deep = len(path) > 2 or path[0] in TOLD_WITH_PARENT
    name = ".".join(path[-2:]) if deep else path[-1]
    for i, value in nodes.items():
        parts[i].append((".".join(path), f"{rules.plurals.get(name, name)}={_short(value)}"))


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
