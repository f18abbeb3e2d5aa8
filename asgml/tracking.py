"""What trackers are told of runs of asgml beyond what holds for every program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from suite.tracking import Findings, track_scores


def tags(cfg: DictConfig) -> list[str]:
    """Return the data source, the methods (`joint` without any) and the mode of the rhythm."""
    methods = [str(name) for name in cfg.methods] or ["joint"]
    return [str(cfg.data._target_).rpartition(".")[2], *methods, str(cfg.asgml.mode)]


def findings(run_dir: Path) -> Findings:
    """Return the predictions of a finished run: those of its last and of its best weights."""
    return Findings({"predictions": [run_dir / f"predictions{suffix}.npz" for suffix in ("", "_best")]})


def track(run_dir: Path, own: DictConfig, cfg: DictConfig, folder: Path, result: Mapping[str, Any]) -> None:
    """File an evaluation of a finished run with its trackers, in the run's group.

    Args:
        run_dir: the run's directory.
        own: its configuration.
        cfg: the same with the data that were asked for.
        folder: the evaluation's folder, named by its hash.
        result: what it has found (see `asgml.evaluate.evaluate`).
    """
    missing = {"missing": cfg.loader.missing}
    track_scores(own, run_dir, folder, result, cfg.data, missing, tags(own), findings(folder))
