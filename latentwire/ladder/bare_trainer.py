"""The real module and a bare trainer around a subject's wire."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
from omegaconf import OmegaConf

from callbacks.stages.lr import LRSchedule
from latentwire.build import validation_length
from latentwire.ladder.subject import Subject
from latentwire.objectives.likelihood import AnswerCE
from latentwire.train.curriculum import Constant, Curriculum, Period
from latentwire.train.curriculum_stage import CurriculumStage
from latentwire.train.module import WireModule
from suite.config.instantiate import build_node


class Gentle(LRSchedule):
    """Falls along half a cosine after a linear rise over a quarter of the steps, at a share of the rates.

    Args:
        steps: number of steps to train for.
        share: share of the configured learning rates.
    """

    WARMUP = 40

    def __init__(self, steps: int, share: float):
        super().__init__("cosine", warmup_steps=min(self.WARMUP, steps // 4))
        self.share = share

    def factor(self, steps_per_epoch: int, epochs: int) -> Callable[[int], float]:
        whole = super().factor(steps_per_epoch, epochs)
        return lambda t: self.share * whole(t)


def module_of(subject: Subject, steps: int, lr_schedule: LRSchedule) -> WireModule:
    """Put the subject's wire into a module, with the configured optimiser and answers as the only objective."""
    cfg, objective = subject.cfg, AnswerCE(Constant())
    rates = {str(k): float(v) for k, v in cfg.group_lr.items() if str(k).partition(":")[0] != "head"}
    return WireModule(
        subject.wire,
        subject.lms,
        {"answer_ce": objective},
        CurriculumStage(Curriculum([Period("ladder")], steps), {"answer_ce": objective.weight}),
        build_node(cfg.optimizer),
        lr_schedule,
        rates,
        subject.inputs.tokens,
        max_new_tokens=validation_length(cfg),
    )


@contextmanager
def trainer_of(subject: Subject, steps: int, callbacks: Sequence[L.Callback]) -> Iterator[L.Trainer]:
    """Lend a trainer with the configured device and precision that logs and saves nothing.

    Afterwards the subject is back in its place.
    """
    settings: Any = OmegaConf.to_container(subject.cfg.trainer, resolve=True)
    settings |= {"max_steps": steps, "max_epochs": -1, "enable_progress_bar": False}
    settings.pop("_target_")
    trainer = L.Trainer(
        **settings,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )
    try:
        with warnings.catch_warnings():  # there is no validation, and models stay in evaluation mode, on purpose
            warnings.filterwarnings("ignore", message=".*no `val_dataloader`.*")
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
            yield trainer
    finally:
        subject.place()
