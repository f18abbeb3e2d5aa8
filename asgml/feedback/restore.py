"""From a finished run of the feedback system to its module in evaluation mode, without its training data."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asgml.feedback.build import build_finished
from asgml.feedback.finished import asked, told_of
from asgml.feedback.train.evaluated import EvaluatedModule
from callbacks.errors import UserError
from callbacks.run.stored import read_checkpoint
from suite.runs.finished import stored_checkpoint

AGAIN = "repeat the run's command with resume=never"


@dataclass
class Restored:
    """Holds a finished run, or an export of one, ready to score pictures.

    Attributes:
        dir: its directory.
        cfg: its configuration; of an export, as much of it as scoring needs.
        result: its result; of an export, its hash and classes.
        module: the module with its weights, in evaluation mode, whose prompts are of the run's classes.
        which: the weights: `best` or `last`.
    """

    dir: Path
    cfg: DictConfig
    result: dict[str, Any]
    module: EvaluatedModule
    which: str

    @property
    def classes(self) -> list[str]:
        """The names of the run's classes: of training, selection and test."""
        return list(self.result["classes"])


def restore(run_dir: Path, which: str = "best", clip: str | None = None, cfg: DictConfig | None = None) -> Restored:
    """Rebuild the module of a finished run. What its `init` names is not read: finished weights take its place.

    Args:
        run_dir: its directory.
        which: `best`, the weights of the best validation, or `last`.
        clip: where its CLIP lies, in place of `clip.source`.
        cfg: its configuration where words have changed it, as `score.*`; None reads it.

    Raises:
        UserError: no such run or checkpoint, a run that is not finished, damage to one of its files, or a CLIP that is
            not there or not that of the run.
    """
    cfg = placed(asked(run_dir, (), "", ()) if cfg is None else cfg, clip)
    result = told_of(run_dir)
    path = stored_checkpoint(run_dir, which)
    saved = read_checkpoint(path, AGAIN, result.get("hash"))
    module = build_finished(cfg, list(result["classes"]))
    module.model.clip.require(saved["feedback"]["clip"], str(path), other_clip(cfg))
    module.load_state_dict(saved["state_dict"])
    return Restored(run_dir, cfg, result, module.eval(), which)


def placed(cfg: DictConfig, clip: str | None) -> DictConfig:
    """Return a configuration whose CLIP is read from another place.

    Args:
        cfg: the configuration, which is left as it is.
        clip: a folder or hub id; None leaves the place that it has.

    Raises:
        UserError: a CLIP that is not read from anywhere.
    """
    if clip is None:
        return cfg
    if "source" not in cfg.clip:
        found = f"{clip} for a run on {cfg.clip._target_}, which is made from its settings"
        raise UserError("--clip", found, "a run whose clip has a source", "leave --clip out")
    cfg = copy.deepcopy(cfg)
    cfg.clip.source = clip
    return cfg


def other_clip(cfg: DictConfig) -> str:
    """Return what to do where the CLIP that is found is another one than that of the weights."""
    if "source" in cfg.clip:
        return "name the place of the CLIP that they were trained on: --clip FOLDER"
    return "use the release of the suite and of torch that they were trained with"
