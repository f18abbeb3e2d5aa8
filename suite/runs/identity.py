"""Identity: two runs are the same run when everything that can change their numbers is the same.

A run's directory, its lock, its ledger row and its W&B id derive from `config_hash`. What is left out of the hash, and
why, are the tables `NOT_MEANINGFUL` and `AFTERWARDS`; whatever is not in them counts. So does the content of the files
that the user gives, wherever they lie; keys that act on nothing at the other values (`suite.runs.reads`) count as their
defaults.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from suite.runs.fingerprint import Fingerprint, digests, remembered
from suite.runs.inputs import default_of, given_files, inert
from suite.runs.reads import Files

# Dotted keys (with all below them) that change where, how fast or how visibly a run goes, but not its numbers.
NOT_MEANINGFUL: dict[str, str] = {
    "paths": "where files lie",
    "placement": "where models lie and what they keep; no number but for rounding",
    "label": "how tables and figures call the run",
    "logger": "where metrics go",
    "launcher": "where and how many at a time",
    "resume": "what to do with an earlier attempt of the same run",
    "loader.workers": "batches are made from (seed, epoch, index), whoever makes them",
    "loader.pin_memory": "speed only",
    "loader.prefetch": "speed only",
    "loader.accumulate": "memory only; a step is that of the undivided batch",
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
    "callbacks.reliance": "measured on the finished weights",
    "callbacks.latents": "monitors do not disturb",
    "callbacks.answers": "monitors do not disturb",
    "callbacks.uniform_bound": "it ends a run or changes nothing",
}

# Keys that act on finished weights alone. They make no other run; what is measured by them on one run has a hash of its
# own, `evaluation_hash`.
AFTERWARDS: dict[str, str] = {
    "evaluation": "what the finished weights are asked",
    "baselines": "what they are compared with",
}

# Keys that judge numbers which are there: neither another run nor another evaluation.
JUDGED = ("acceptance",)

# Keys that name an earlier run by its directory, or a mapping of names to such. Which run it is counts, its name and
# hash; where it lies does not.
EARLIER_RUNS = (
    "init.weights",
    *(f"init.{part}" for part in ("encoder", "codec", "adapter", "injector", "lora", "head")),
    "wire.from_run",
    "wire.start_from",
)

# Mappings whose order matters: methods are applied one after the other.
ORDERED = ("methods",)

HASH_LENGTH = 12
HASH = rf"[0-9a-f]{{{HASH_LENGTH}}}"


def meaningful(cfg: DictConfig, *, inputs: bool = True, idle: bool = False) -> dict[str, Any]:
    """Return the part of a tree that decides the numbers, as plain containers in canonical form.

    Numbers are canonical (1.0 and 1 are one, a nan is "nan"); a value that refers to `paths` (a data root) counts as
    the reference, so a run keeps its identity on another machine; an ordered mapping is a list of pairs. The SHA-256 of
    the given files that exist is under `inputs`, by role; a value that is the path of such a file is left out.

    Args:
        cfg: the tree.
        inputs: whether the content of given files counts.
        idle: whether the values of keys that act on nothing count.
    """
    plain = _portable(cfg)
    for dotted in (*NOT_MEANINGFUL, *AFTERWARDS, *JUDGED):
        _take(plain, dotted)
    for dotted in EARLIER_RUNS:
        node, key = _parent(plain, dotted), dotted.rpartition(".")[2]
        if node is not None and key in node:
            node[key] = _which_runs(node[key])
    for dotted in {} if idle else inert(cfg):
        node = _parent(plain, dotted)
        if node is not None and "_target_" in node:
            default = default_of(node, dotted.rpartition(".")[2])
            _take(plain, dotted)
            if default is not inspect.Parameter.empty:
                node[dotted.rpartition(".")[2]] = default
    if inputs and (given := fingerprints(cfg, {r: f for r, f in given_files(cfg).items() if not afterwards(r)})):
        for role in given:
            _take(plain, role)
        plain["inputs"] = digests(given)
    for key in ORDERED:
        if isinstance(plain.get(key), dict):
            plain[key] = [[name, value] for name, value in plain[key].items()]
    return _canonical(plain)


def afterwards(dotted: str) -> bool:
    """Return whether a dotted key acts on finished weights alone."""
    return dotted.partition(".")[0] in AFTERWARDS


def evaluation_hash(cfg: DictConfig) -> str:
    """Return what tells the evaluations of one run apart: a hash as `config_hash`, over the keys of `AFTERWARDS`."""
    plain = _portable(cfg)
    counted = {key: plain.get(key) for key in AFTERWARDS}
    given = fingerprints(cfg, {role: files for role, files in given_files(cfg).items() if afterwards(role)})
    return _digest(_canonical({**counted, "inputs": digests(given)} if given else counted))


def config_hash(cfg: DictConfig, *, inputs: bool = True, idle: bool = False) -> str:
    """Return twelve hexadecimal digits of SHA-256 over the canonical JSON of `meaningful`, arguments as there."""
    return _digest(meaningful(cfg, inputs=inputs, idle=idle))


def _digest(counted: Mapping[str, Any]) -> str:
    text = json.dumps(counted, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def fingerprints(cfg: DictConfig, files: Files) -> dict[str, Fingerprint]:
    """Return the fingerprints of those files that are there, by role; what is known under `paths.runs` is not read."""
    return remembered(runs_root(cfg)).of(files) if files else {}


def runs_root(cfg: DictConfig) -> Path:
    """Return the absolute `<paths.runs>`."""
    return Path(str(cfg.paths.runs)).expanduser().absolute()


def run_dir(cfg: DictConfig) -> Path:
    """Return the absolute `<paths.runs>/<name>/<hash>`; nothing is created."""
    return runs_root(cfg) / str(cfg.name) / config_hash(cfg)


def _portable(cfg: DictConfig) -> dict[str, Any]:
    """Return a tree as plain containers in which a value that refers to `paths` stands as the reference."""
    paths = cfg.get("paths")
    with _as_references(paths) if isinstance(paths, DictConfig) else nullcontext():
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return plain


@contextmanager
def _as_references(paths: DictConfig) -> Iterator[None]:
    """Let each path be its own name for a while: a copy of the whole tree would take longer than its hash."""
    kept: Any = OmegaConf.to_container(paths, resolve=False)
    with read_write(paths), open_dict(paths):
        try:
            for name in kept:
                paths[name] = f"<paths.{name!s}>"
            yield
        finally:
            for name, value in kept.items():
                paths[name] = value


def _which_runs(value: Any) -> Any:
    """Return a directory, or each of a mapping, as `_which_run` has it; all else as it is."""
    if isinstance(value, dict):
        return {name: _which_runs(one) for name, one in value.items()}
    return _which_run(value) if isinstance(value, str) else value


def _which_run(directory: str) -> str:
    """Return `runs/<name>/<hash>` of a run's directory, wherever it lies and however it is written."""
    last = Path(directory).parts[-2:]
    return "/".join(("runs", *last)) if len(last) == 2 and re.fullmatch(HASH, last[1]) else directory


def _parent(plain: Mapping[str, Any], dotted: str) -> dict[str, Any] | None:
    """Return the mapping that would hold a dotted key; None if there is none."""
    node: Any = plain
    for part in dotted.split(".")[:-1]:
        node = node.get(part) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else None


def _take(plain: Mapping[str, Any], dotted: str) -> None:
    node = _parent(plain, dotted)
    if node is not None:
        node.pop(dotted.rpartition(".")[2], None)


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
