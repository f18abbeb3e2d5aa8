"""What commands on a finished run, or on an export of one, ask of it before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asgml.feedback.judged import judge_score
from asgml.feedback.run import PROGRAM_NAME, Tree
from callbacks.errors import UserError
from suite.config.check import check
from suite.runs.exported import is_export, read_manifest
from suite.runs.finished import changed, read_config, require_finished

FORMAT, VERSION = "asgml.feedback adapters", 1  # of an export
EXPORT_AGAIN = "write it again: python -m asgml.feedback.export RUN -o FOLDER"
GOES_ON = "repeat its command: it goes on"
DATA = "data"


def asked(
    place: Path,
    overrides: Sequence[str],
    example: str,
    also: Sequence[str],
    data: bool = False,
    config_dirs: Sequence[Path] = (),
) -> DictConfig:
    """Return the configuration of a run or an export as the words after it change it.

    Args:
        place: the directory of a run, or an export.
        overrides: the words.
        example: a word that needs quotes, for the error.
        also: dotted keys that may be changed.
        data: whether the run's data may be as well.
        config_dirs: further folders with choices of `data`.

    Raises:
        UserError: no run, a key that belongs to the training, one that nothing understands, or a value out of range.
    """
    own = read_config(place, PROGRAM_NAME, "feedback system")
    cfg = changed(place, own, overrides, example, DATA if data else None, also, config_dirs)
    check(cfg, Tree, targets=False)  # an export may name code that is not trusted yet
    judge_score(cfg)
    if data:
        check(cfg, Tree)
    return cfg


def told_of(place: Path) -> dict[str, Any]:
    """Return the result of a finished run, or the manifest of an export; both have `hash` and `classes`.

    Raises:
        UserError: a run that is not finished, or a damaged export.
    """
    if is_export(place):
        return read_manifest(place, FORMAT, VERSION, EXPORT_AGAIN)
    return require_finished(place, GOES_ON)


def class_of(classes: Sequence[str], name: str | None) -> str:
    """Return the class that prompts are to name.

    Args:
        classes: those of the run.
        name: the one that was asked for, any; None is the only one of the run.

    Raises:
        UserError: an empty name, or none where the run has several classes.
    """
    if name is not None and not name.strip():
        raise UserError("--class", "an empty name", "the word in the prompts", f"add --class {classes[0]}")
    if name is None and len(classes) > 1:
        expected = f"the word in the prompts: one of the run's classes ({', '.join(classes)}), or any other"
        raise UserError("--class", "no name", expected, f"add --class {classes[0]}")
    return classes[0] if name is None else name
