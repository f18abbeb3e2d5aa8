"""What trackers are told of runs of asgml beyond what holds for every program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from suite.tracking import SPLITS, WEIGHTS, Findings, track_evaluation


def tags(cfg: DictConfig) -> list[str]:
    """Return the data source, the methods (`joint` without any) and the mode of the rhythm."""
    methods = [str(name) for name in cfg.methods] or ["joint"]
    return [str(cfg.data._target_).rpartition(".")[2], *methods, str(cfg.asgml.mode)]


def findings(run_dir: Path) -> Findings:
    """Return the predictions of a finished run: those of its last and of its best weights."""
    return Findings({"predictions": [run_dir / f"predictions{suffix}.npz" for suffix in ("", "_best")]})


def track(run_dir: Path, own: DictConfig, cfg: DictConfig, folder: Path, result: Mapping[str, Any]) -> None:
    """File an evaluation of a finished run with its trackers, in the run's group.

    The configuration is the run's, with what was scored under `evaluation`; the numbers are those of the evaluation
    alone, as of the weights that were scored.

    Args:
        run_dir: the run's directory.
        own: its configuration.
        cfg: the same with the data that were asked for.
        folder: the evaluation's folder, named by its hash.
        result: what it has found (see `asgml.evaluate.evaluate`).
    """
    told: Any = OmegaConf.to_container(cfg.data, resolve=True)
    source = told.pop("_target_")  # no target of the tree: what the run reads are its own data
    asked = {"source": source, "data": told, "missing": cfg.loader.missing, "checkpoint": result["checkpoint"]}
    own = own.copy()
    with open_dict(own):
        own.evaluation = asked
    weights = {name: suffix for suffix, name in WEIGHTS.items()}
    numbers: dict[str, Any] = {f"{split}{suffix}": {} for split in SPLITS for suffix in WEIGHTS}
    numbers[f"test{weights[result['checkpoint']]}"] = result["test"]
    track_evaluation(own, run_dir, folder.name, numbers, tags(own), findings(folder))
