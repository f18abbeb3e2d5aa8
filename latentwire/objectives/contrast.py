"""The right latents must be better than another text's."""

from __future__ import annotations

from torch import Tensor

from callbacks.ranges import NonNegative
from latentwire.objectives.base import Needs, Objective, ObjectiveOutput, Seen
from latentwire.train.curriculum import Schedule


def hinge(right: Tensor, wrong: Tensor, margin: float) -> Tensor:
    """Return mean max(0, margin - (NLL with wrong latents - NLL with the right ones)); (B,), (B,) -> ()."""
    return (margin - (wrong - right)).clamp(min=0).mean()


class MismatchHinge(Objective):
    """Applies `hinge` to the questions of a batch, with wrong latents from the batch's next text.

    Only the gap counts: a model that ignores its latents pays `margin`.

    Args:
        weight: its weight over time.
        margin: wanted gap, in nats per token.
    """

    needs = Needs(frozenset({"answer", "wrong"}))
    observes = ("swap_gap",)

    def __init__(self, weight: Schedule, margin: NonNegative = 1.0):
        super().__init__(weight)
        self.margin = margin

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        right, wrong = seen.rows["answer"].nll(), seen.rows["wrong"].nll()
        gap = (wrong - right).detach().mean()
        return ObjectiveOutput(hinge(right, wrong, self.margin), {"swap_gap": gap})
