"""The size of what adapters make."""

from __future__ import annotations

from latentwire.objectives.base import Needs, Objective, ObjectiveOutput, Seen
from latentwire.train.curriculum import Schedule


class LatentScale(Objective):
    """Holds what the adapter makes of each slot to the size that was measured: mean over slots of (rms(y) - 1)^2.

    y is in units of the adapter's calibration, so 1 is the size of text as measured (`soft_prefix`) or of the first
    batch. Slots differ in size, as tokens do, and magnitude carries meaning: this keeps a run from drifting off, and
    a weight that makes all slots alike is too large. The size is observed as `latent_scale`.

    Args:
        weight: its weight over time.
    """

    needs = Needs(frozenset())
    reaches = frozenset({"encoder", "codec", "adapter"})
    observes = ("latent_scale",)

    def __init__(self, weight: Schedule):
        super().__init__(weight)

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        if seen.adapted is None:
            raise RuntimeError("a scale without an adapter's output")
        size = seen.adapted().float().pow(2).mean(-1).clamp(min=1e-12).sqrt()
        return ObjectiveOutput((size - 1).pow(2).mean(), {"latent_scale": size.detach().mean()})
