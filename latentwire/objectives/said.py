"""What an encoder says of itself, as a loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import nn

from latentwire.objectives.base import TEXTS, Needs, Objective, ObjectiveOutput, ReaderShape, Seen
from latentwire.train.curriculum import Schedule


class RefinerDepth(Objective):
    """Puts a price on the layers that slots go through: the mean depth of a refiner that halts (`encoder.halting`).

    The loss is in layers, so its weight is what a layer may cost in units of the other losses (the time penalty of
    Graves, 2016, 1603.08983). The gradient reaches the encoder.

    Args:
        weight: its weight over time.
    """

    needs = Needs(frozenset())
    reaches = frozenset({"encoder"})
    hears = ("depth",)
    observes = ("depth",)
    mean_over = TEXTS

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        depth = seen.said["depth"].mean()
        return ObjectiveOutput(depth, {"depth": depth.detach()})


class SemanticAnchor(Objective):
    """Holds the mean of a message's latents to the semantic anchor of its text: 1 - cos(W mean_j z_j + b, a).

    a: what the encoder says as `anchor`, without gradient. The loss is a mean over texts; the gradient reaches encoder,
    codec, W and b. What tells texts apart in the anchor is little of what they say: a high cosine is no task skill.

    Args:
        weight: its weight over time.
    """

    needs = Needs(frozenset())
    reaches = frozenset({"encoder", "codec"})
    hears = ("anchor",)
    observes = ("anchor_cosine",)
    mean_over = TEXTS

    def __init__(self, weight: Schedule):
        super().__init__(weight)
        self.width = 0

    def hear(self, widths: Mapping[str, int]) -> None:
        self.width = widths["anchor"]

    def prepare(self, readers: Mapping[str, ReaderShape], d_z: int) -> None:
        self.head = nn.Linear(d_z, self.width)

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        found = self.head(seen.latents.mean(1)).float()
        cosine = F.cosine_similarity(found, seen.said["anchor"].detach().float(), dim=-1).mean()
        return ObjectiveOutput(1 - cosine, {"anchor_cosine": cosine.detach()})
