"""Stages and objectives as a configuration has them, and how many steps there are to divide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from omegaconf import DictConfig

from callbacks.errors import UserError
from latentwire.objectives.base import Objective
from latentwire.train.curriculum import Period
from latentwire.train.nested import Nested
from latentwire.train.stages_check import StagesCheck
from suite.config.instantiate import build_node


def nested_of(cfg: DictConfig) -> Nested | None:
    """Build the law of the slots that a step of training reads; None where it reads all."""
    node = cfg.wire.get("nested")
    return None if node is None else build_node(node)


def stages_of(cfg: DictConfig) -> tuple[list[Period], dict[str, Objective]]:
    """Build periods and objectives, which fit each other; a period without a batch size has the loader's.

    Raises:
        UserError: one error with all that does not fit, see `StagesCheck`.
    """
    objectives: dict[str, Objective] = {str(name): build_node(node) for name, node in cfg.objectives.items()}
    if not objectives:
        raise UserError("objectives", "none", "at least one", "set objective=[answer_ce]")
    periods: list[Period] = [build_node(node) for node in cfg.stages]
    if not periods:
        raise UserError("stages", "none", "at least one", "set curriculum=single")
    private = {str(k): int(v) for k, v in cfg.wire.private.items()}
    wrong = any("wrong" in o.needs.kinds for o in objectives.values())
    if wrong and int(cfg.loader.batch_size) < 2:
        raise UserError("loader.batch_size", "1 with mismatched latents", "2 or more", "set loader.batch_size=2")
    StagesCheck(periods, objectives, [str(name) for name in cfg.lms], nested_of(cfg), cfg.wire.slots, private).refuse()
    return [replace(p, batch_size=p.batch_size or int(cfg.loader.batch_size)) for p in periods], objectives


def steps_of(cfg: DictConfig, periods: Sequence[Period], passages: int | None = None) -> int | None:
    """Return the number of committed steps; None without an end, or where it follows from a corpus not yet known.

    Args:
        cfg: the whole configuration.
        periods: the stages, as `stages_of` returns them.
        passages: the number of training passages, where it is known.
    """
    limits = [int(cfg.trainer.max_steps)] if cfg.trainer.max_steps > 0 else []
    if (cfg.trainer.max_epochs or -1) > 0:
        each = cfg.loader.steps_per_epoch
        if each is None and passages is None:
            return None
        each = max(1, (passages or 0) // largest_batch(cfg, periods)) if each is None else int(each)
        limits.append(int(cfg.trainer.max_epochs) * each)
    return min(limits, default=None)


def largest_batch(cfg: DictConfig, periods: Sequence[Period]) -> int:
    """Return the number of contexts in the largest batch of any stage."""
    return max((p.batch_size or 1 for p in periods), default=int(cfg.loader.batch_size))
