"""What trackers are told of runs of asgml.feedback beyond what holds for every program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from suite.tracking import Findings, track_scores


def tags(cfg: DictConfig) -> list[str]:
    """Return the data source and the variant of the feedback, `no feedback` without."""
    return [str(cfg.data._target_).rpartition(".")[2], str(cfg.variant) if cfg.feedback else "no feedback"]


def findings(run_dir: Path) -> Findings:
    """Return the pictures of a finished run, with what it has seen in them."""
    from asgml.feedback.report.sections import FOLDER

    return Findings({"predictions": [run_dir / FOLDER]})


def track(run_dir: Path, own: DictConfig, cfg: DictConfig, folder: Path, result: Mapping[str, Any]) -> None:
    """File an evaluation of a finished run with its trackers, in the run's group.

    Args:
        run_dir: the run's directory.
        own: its configuration.
        cfg: the same with the data that were asked for.
        folder: the evaluation's folder, named by its hash.
        result: what it has found (see `asgml.feedback.evaluate.evaluate`).
    """
    score = {"score": cfg.score}
    track_scores(own, run_dir, folder, result, cfg.data, score, tags(own), findings(folder))
