"""Identity: two runs are the same run when everything that can change their numbers is the same.

A run's directory, its lock, its ledger row and its W&B id derive from `config_hash`. What is left out of the hash, and
why, is the table `NOT_MEANINGFUL`; whatever is not in it counts.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

# Dotted keys (with all below them) that change where, how fast or how visibly a run goes, but not its numbers.
NOT_MEANINGFUL: dict[str, str] = {
    "paths": "where files lie",
    "label": "how tables and figures call the run",
    "logger": "where metrics go",
    "resume": "what to do with an earlier attempt of the same run",
    "loader.workers": "batches are made from (seed, epoch, index), whoever makes them",
    "loader.pin_memory": "speed only",
    "loader.prefetch": "speed only",
    "trainer.accelerator": "device",
    "trainer.devices": "device; the batch size is global",
    "trainer.num_nodes": "device",
    "trainer.strategy": "device",
    "trainer.benchmark": "speed only",
    "trainer.default_root_dir": "where files lie",
    "trainer.logger": "where metrics go",
    "trainer.profiler": "speed report only",
    "trainer.log_every_n_steps": "monitors do not disturb",
    "trainer.enable_progress_bar": "display",
    "trainer.enable_model_summary": "display",
    "callbacks.progress": "display",
    "callbacks.epoch_line": "display",
    "callbacks.progress_bar": "display",
    "callbacks.model_summary": "display",
}

# Mappings whose order matters: methods are applied one after the other.
ORDERED = ("methods",)

HASH_LENGTH = 12


def meaningful(cfg: DictConfig) -> dict[str, Any]:
    """Return the part of a tree that decides the numbers, as plain containers in canonical form.

    Numbers are canonical (1.0 and 1 are one, a nan is "nan"); a value that refers to `paths` (a data root) counts as
    the reference, so a run keeps its identity on another machine; an ordered mapping is a list of pairs.
    """
    tree = copy.deepcopy(cfg)
    with read_write(tree), open_dict(tree):
        paths = tree.get("paths")
        if isinstance(paths, DictConfig):
            for name in paths:
                paths[name] = f"<paths.{name!s}>"
    plain = OmegaConf.to_container(tree, resolve=True)
    assert isinstance(plain, dict)
    for dotted in NOT_MEANINGFUL:
        *parents, last = dotted.split(".")
        node: Any = plain
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(last, None)
    for key in ORDERED:
        if isinstance(plain.get(key), dict):
            plain[key] = [[name, value] for name, value in plain[key].items()]
    return _canonical(plain)


def config_hash(cfg: DictConfig) -> str:
    """Return twelve hexadecimal digits of SHA-256 over the canonical JSON of `meaningful(cfg)`."""
    text = json.dumps(meaningful(cfg), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def runs_root(cfg: DictConfig) -> Path:
    """Return the absolute `<paths.runs>`."""
    return Path(str(cfg.paths.runs)).expanduser().absolute()


def run_dir(cfg: DictConfig) -> Path:
    """Return the absolute `<paths.runs>/<name>/<hash>`; nothing is created."""
    return runs_root(cfg) / str(cfg.name) / config_hash(cfg)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)  # OmegaConf's remaining leaves: enum, bytes, path
