"""The two stages of training: how long each is, how fast, and which parameter groups it moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from callbacks.errors import UserError

StageName = Literal["text", "image"]
#: the groups of `FeedbackModel.groups()` that a stage trains
TRAINED: dict[StageName, tuple[str, ...]] = {
    "text": ("text_adapter",),
    "image": ("image_adapter", "image_projection", "image_reads", "text_reads"),
}


@dataclass(frozen=True)
class StageOf:
    """Holds one stage.

    Attributes:
        name: its name.
        epochs: its length.
        batch_size: the number of pictures in a global batch.
        lr: the learning rate of its groups.
        halve_at: the committed steps of the stage from which on the rate is halved, once for each.
    """

    name: StageName
    epochs: int
    batch_size: int
    lr: float
    halve_at: Sequence[int] = field(default=())

    @property
    def trains(self) -> tuple[str, ...]:
        """The groups that it trains."""
        return TRAINED[self.name]

    def rate(self, steps: int) -> float:
        """Return the learning rate after so many committed steps of the stage."""
        return self.lr * 0.5 ** sum(steps >= at for at in self.halve_at)


class Plan:
    """Says which epoch belongs to which stage.

    Args:
        stages: the stages in their order; one without epochs is left out.

    Raises:
        UserError: no stage with an epoch.
    """

    def __init__(self, stages: Sequence[StageOf]):
        self.stages = [s for s in stages if s.epochs > 0]
        if not self.stages:
            expected = "an epoch of one of them"
            raise UserError("stages.text.epochs, stages.image.epochs", "0", expected, "set stages.image.epochs=20")

    @property
    def epochs(self) -> int:
        """The length of the run in epochs."""
        return sum(s.epochs for s in self.stages)

    @property
    def rates(self) -> Mapping[str, float]:
        """The initial learning rate of every group that is trained."""
        return {group: s.lr for s in self.stages for group in s.trains}

    @property
    def last_begins(self) -> int:
        """The epoch, counted from 0, with which the last stage begins."""
        return self.epochs - self.stages[-1].epochs

    def stage(self, epoch: int) -> StageOf:
        """Return the stage of an epoch, counted from 0; the last one for those behind the end."""
        for s in self.stages:
            if epoch < s.epochs:
                return s
            epoch -= s.epochs
        return self.stages[-1]
