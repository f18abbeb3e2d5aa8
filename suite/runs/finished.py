"""What commands that read a finished run share: its configuration, changed by words of the command line, its result."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from callbacks.errors import UserError
from suite.config.compose import Composer
from suite.runs.job import CHECKPOINTS
from suite.runs.provenance import CONFIG, read_config_text, read_result

PLACE = "<paths.runs>/<name>/<hash>"  # of a run
EVALUATIONS = "evaluations"  # folder of a run: one folder for each evaluation, by its hash
ASKED = "asked.yaml"  # in it, what was asked


def read_config(run_dir: Path, program: str, kind: str) -> DictConfig:
    """Read the configuration that a run was made with.

    Args:
        run_dir: the run's directory.
        program: the program that it has to be of.
        kind: what such a run trains, for the error: `wire`.

    Raises:
        UserError: no configuration there, a damaged one, or one of another program.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        raise UserError(str(run_dir), f"no {CONFIG} in it", "the directory of a run", f"give {PLACE}")
    expected = "the configuration of a run"
    remedy = "repeat the run's command with resume=never"
    try:
        cfg = OmegaConf.create(read_config_text(run_dir, expected, remedy))
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(str(path), str(error).splitlines()[0], expected, remedy) from error
    if not isinstance(cfg, DictConfig):
        raise UserError(str(path), type(cfg).__name__, expected, remedy)
    if cfg.get("program") != program:
        found = f"a run of {cfg.get('program')}"
        raise UserError(str(run_dir), found, f"one of {program}", f"give {PLACE} of a {kind}")
    return cfg


def require_finished(run_dir: Path, remedy: str = "repeat its command: it goes on, and evaluates") -> dict[str, Any]:
    """Return the result of a run. Raises UserError for one that is not finished."""
    result = read_result(run_dir)
    if result.get("status") != "finished":
        found = f"a run that is {result['status']}" if "status" in result else "no result.json in it"
        raise UserError(str(run_dir), found, "a finished run", remedy)
    return result


def stored_checkpoint(run_dir: Path, which: str) -> Path:
    """Return the path of a finished run's checkpoint, `best` or `last`. Raises UserError where there is none."""
    path = run_dir / CHECKPOINTS / f"{which}.ckpt"
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.ckpt") if p.stem in ("best", "last"))
        remedy = f"add --checkpoint {there[0]}" if there else "repeat the run's command with resume=never"
        raise UserError(str(path), "no such file", f"the {which} weights of the run", remedy)
    return path


def parsed(line: str, example: str) -> Override:
    """Parse one override of a command on a finished run.

    Args:
        line: what was typed.
        example: an override that needs quotes, for the error.

    Raises:
        UserError: no override, or one with several values.
    """
    try:
        override = OverridesParser.create().parse_override(line)
    except HydraException as error:
        remedy = f"write key=value, in quotes where the shell would change it: '{example}'"
        raise UserError(line, str(error).splitlines()[0], "an override", remedy) from error
    if override.is_sweep_override():
        remedy = "call the command once per value; what is there is not measured twice"
        raise UserError(line, "several values", "one value", remedy)
    return override


def refuse_training_keys(override: Override, allowed: Collection[str], told: str, run_dir: Path, command: str) -> None:
    """Refuse an override of a key that belongs to the training of a run.

    Args:
        override: the override.
        allowed: the dotted keys that may be changed, with all below them.
        told: how the error names them.
        run_dir: the run's directory.
        command: what trains a run with another value: `python -m latentwire.run …`.

    Raises:
        UserError: any other key.
    """
    key, line = str(override.key_or_group), str(override.input_line)
    if not any(key == a or key.startswith(f"{a}.") for a in allowed):
        found, remedy = f"{key} belongs to the training of {run_dir}", f"train it with this key: {command} {line}"
        raise UserError(line, found, told, remedy)


def apply_override(cfg: DictConfig, override: Override, optional: Mapping[str, Collection[str]] | None = None) -> None:
    """Apply an override to a run's configuration, in place.

    Args:
        cfg: the configuration.
        override: the override.
        optional: keys that a node may have and the run's need not have, by the node's dotted key.

    Raises:
        UserError: a key that the run does not have and that is not added (`+`), or a value that does not fit.
    """
    key, line = str(override.key_or_group), str(override.input_line)
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    known = isinstance(node, DictConfig) and (name in node or name in (optional or {}).get(parent, ()))
    if not known and not (override.is_add() or override.is_force_add()):
        near = f"one of {', '.join(map(str, node))}" if isinstance(node, DictConfig) and node else "a key of the run"
        raise UserError(line, f"the run has no {key}", near, f"write +{line} if it is meant to be added")
    try:
        with open_dict(cfg):
            if override.is_delete():
                del node[name]
            else:
                OmegaConf.update(cfg, key, override.value(), merge=True, force_add=True)
    except OmegaConfBaseException as error:
        raise UserError(line, str(error).splitlines()[0], "a value for this key", f"leave {key} out") from error


def changed(
    run_dir: Path,
    cfg: DictConfig,
    overrides: Sequence[str],
    example: str,
    node: str | None = None,
    also: Sequence[str] = (),
    config_dirs: Sequence[Path] = (),
) -> DictConfig:
    """Return a run's configuration as the words after the run change it.

    Args:
        run_dir: the run's directory.
        cfg: its configuration, which is left as it is.
        overrides: the words.
        example: a word that needs quotes, for the error.
        node: a node that may be chosen anew (`data=NAME`), and changed with all below it.
        also: dotted keys beside it that may be changed.
        config_dirs: further folders with choices of the node.

    Raises:
        UserError: a key that belongs to the training, or one that nothing understands.
    """
    cfg, program = copy.deepcopy(cfg), str(cfg.program)
    told = " or ".join([*([f"{node}.*"] if node else []), *([", ".join(also)] if also else [])])
    for line in overrides:
        override = parsed(line, example)
        allowed = (*([node] if node else []), *also)
        refuse_training_keys(override, allowed, told, run_dir, f"python -m {program}.run …")
        if override.key_or_group == node:
            chosen = Composer(program, extra_dirs=config_dirs).compose([line])[node]
            with open_dict(cfg):
                cfg[node] = following(chosen, cfg, node)
            continue
        apply_override(cfg, override)
    return cfg


def following(chosen: DictConfig, cfg: DictConfig, name: str) -> DictConfig:
    """Return a node that was chosen anew as the run's own configuration would have it, `seed: ${seed}` among it.

    Args:
        chosen: the node, as composed.
        cfg: the run's configuration.
        name: the node's key.
    """
    tree = OmegaConf.create({**{k: cfg[k] for k in cfg if k != name}, name: {}})
    tree[name] = OmegaConf.create(OmegaConf.to_container(chosen, resolve=False))
    found = OmegaConf.create(OmegaConf.to_container(tree[name], resolve=True))
    assert isinstance(found, DictConfig)
    return found


def referring(cfg: DictConfig) -> DictConfig:
    """Return a run's resolved configuration whose paths below a folder of `paths` refer to it, as they were composed.

    Identities count such a value as the reference: with it resolved, a run would be another than itself.
    """
    roots = sorted(((str(place), str(name)) for name, place in cfg.paths.items() if place), reverse=True)

    def referred(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: referred(child) for key, child in value.items()}
        if isinstance(value, list):
            return [referred(child) for child in value]
        for place, name in roots:
            if isinstance(value, str) and "/" in value and (value == place or value.startswith(f"{place}/")):
                return f"${{paths.{name}}}{value[len(place) :]}"
        return value

    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return OmegaConf.create({key: value if key == "paths" else referred(value) for key, value in plain.items()})
