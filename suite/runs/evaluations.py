"""Evaluations of a finished run on data that it is asked about: each has a hash, and a folder of its own in the run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from callbacks.errors import quoted
from callbacks.files.atomic import write_bytes
from callbacks.files.sealed import read_json, sealed_text
from callbacks.run.inputs import differing
from suite.runs import record
from suite.runs.finished import ASKED
from suite.runs.identity import config_hash, fingerprints
from suite.runs.inputs import given_files
from suite.runs.ledger import jsonable, write_json
from suite.runs.provenance import RESULT


def evaluation_identity(cfg: DictConfig, asked: Mapping[str, Any]) -> str:
    """Return the hash of what is asked, files by their content.

    Args:
        cfg: the run's configuration with the data that are asked for.
        asked: the nodes and values that count.
    """
    return config_hash(OmegaConf.create({"paths": cfg.paths, **{k: copy.deepcopy(v) for k, v in asked.items()}}))


def inputs_unchanged(result: Mapping[str, Any], cfg: DictConfig) -> bool:
    """Return whether the files that a configuration reads are those that a run was made with.

    Args:
        result: the run's result.
        cfg: the configuration.
    """
    return not differing(result.get("inputs"), fingerprints(cfg, given_files(cfg)))


def kept(folder: Path) -> dict[str, Any] | None:
    """Return the result in an evaluation's folder, None where it has not been measured. Raises UserError on damage."""
    path = folder / RESULT
    return read_json(path, "one JSON object as it was written", f"rm -r {quoted(folder)}") if path.is_file() else None


def keep(
    folder: Path, cfg: DictConfig, asked: Mapping[str, Any], of: Mapping[str, Any], found: Mapping[str, Any]
) -> dict[str, Any]:
    """Write an evaluation into its folder, and return the result as it is stored.

    Args:
        folder: the folder, named by the hash of what was asked.
        cfg: the run's configuration with the data that were asked for.
        asked: what was asked, `checkpoint` among it.
        of: the run's result.
        found: what was found.
    """
    write_bytes(folder / ASKED, sealed_text(OmegaConf.to_yaml(OmegaConf.create(dict(asked)), resolve=True)))
    result = {
        "evaluation": folder.name,
        "run": of.get("hash"),
        "checkpoint": asked["checkpoint"],
        **found,
        "inputs": fingerprints(cfg, given_files(cfg)),
        "finished": record.now(),
        "versions": record.versions(),
        **record.commit(),
    }
    write_json(folder / RESULT, result)  # the last one: an evaluation with it is whole
    return dict(jsonable(result))
