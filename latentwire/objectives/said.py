"""What an encoder says of itself, as a loss."""

from __future__ import annotations

from latentwire.objectives.base import TEXTS, Needs, Objective, ObjectiveOutput, Seen


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
