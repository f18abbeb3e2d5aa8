"""What trackers are told of runs of asgml beyond what holds for every program."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from suite.tracking import Findings


def tags(cfg: DictConfig) -> list[str]:
    """Return the data source, the methods (`joint` without any) and the mode of the rhythm."""
    methods = [str(name) for name in cfg.methods] or ["joint"]
    return [str(cfg.data._target_).rpartition(".")[2], *methods, str(cfg.asgml.mode)]


def findings(run_dir: Path) -> Findings:
    """Return the predictions of a finished run: those of its last and of its best weights."""
    return Findings({"predictions": [run_dir / f"predictions{suffix}.npz" for suffix in ("", "_best")]})
