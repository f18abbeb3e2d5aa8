"""What trackers are told of runs of asgml.feedback beyond what holds for every program."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from suite.tracking import Findings


def tags(cfg: DictConfig) -> list[str]:
    """Return the data source and the variant of the feedback, `no feedback` without."""
    return [str(cfg.data._target_).rpartition(".")[2], str(cfg.variant) if cfg.feedback else "no feedback"]


def findings(run_dir: Path) -> Findings:
    """Return the pictures of a finished run, with what it has seen in them."""
    from asgml.feedback.report.sections import FOLDER

    return Findings({"predictions": [run_dir / FOLDER]})
