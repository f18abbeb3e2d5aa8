"""What a training needs of its configuration, whatever the data: asked before any model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from omegaconf import DictConfig

from callbacks.errors import UserError
from latentwire.build import accumulation
from latentwire.names import strangers
from latentwire.objectives.base import together
from latentwire.stages import stages_of, steps_of
from latentwire.train.curriculum import Curriculum
from latentwire.train.sizes import misfits
from suite.config.compose import merge_errors


def refuse(cfg: DictConfig) -> None:
    """Refuse a tree that no data could make a training of.

    Raises:
        UserError: one error with all that is wrong: no reader, no end, stages and objectives that do not fit each
            other, names of readers or groups that nobody has, parts of a batch that it does not have, sizes that do
            not fit each other.
    """
    problems = [*strangers(cfg), *_end(cfg), *misfits(cfg)]
    for asked in (_objectives, accumulation):
        if (problem := _problem(asked, cfg)) is not None:
            problems.append(problem)
    if problems:
        raise merge_errors(problems, "training")


def _problem(asked: Callable[[DictConfig], object], cfg: DictConfig) -> UserError | None:
    try:
        asked(cfg)
    except UserError as error:
        return error
    return None


def _end(cfg: DictConfig) -> Iterator[UserError]:
    if cfg.trainer.max_steps <= 0 and (cfg.trainer.max_epochs or -1) <= 0:
        remedy = "set trainer.max_epochs=16"
        yield UserError("trainer.max_epochs, trainer.max_steps", "neither", "an end of training", remedy)


def _objectives(cfg: DictConfig) -> None:
    """Refuse objectives and stages that do not fit each other, or not into as many steps as are known to be done."""
    periods, objectives = stages_of(cfg)
    steps = steps_of(cfg, periods)
    if steps is not None:
        Curriculum(periods, steps)
    together({name: o.needs for name, o in objectives.items()}, str(cfg.wire.track) == "whole_prompt")
