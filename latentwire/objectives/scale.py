"""The size of what adapters make, and of how they scale it."""

from __future__ import annotations

from collections.abc import Mapping

from callbacks.errors import UserError
from latentwire.objectives.base import Needs, Objective, ObjectiveOutput, ReaderShape, Seen
from latentwire.train.curriculum import Schedule


class LatentScale(Objective):
    """Holds what the adapter makes of each slot to the size that was measured: mean over slots of (rms(y) - 1)^2.

    y is in units of the adapter's calibration, so 1 is the size of text as measured (`soft_prefix`) or of the first
    batch. Slots differ in size, as tokens do, and magnitude carries meaning: this keeps a run from drifting off, and
    a weight that makes all slots alike is too large. The size is observed as `latent_scale`.
    The gradient reaches encoder, codec and adapter.

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


class AdapterL2(Objective):
    """Penalises how far an adapter's scales and shifts per channel are from 1 and 0, as the adapter says it.

    The gradient reaches these scales and shifts alone.

    Args:
        weight: its weight over time.

    Raises:
        UserError: an adapter without such a penalty.
    """

    needs = Needs(frozenset())
    reaches = frozenset()

    def __init__(self, weight: Schedule):
        super().__init__(weight)

    def prepare(self, readers: Mapping[str, ReaderShape], d_z: int) -> None:
        for name, shape in readers.items():
            if not shape.penalised:
                found, remedy = f"an adapter of {name} without a penalty", "set adapter=channel_affine"
                raise UserError("objectives.adapter_l2", found, "scales and shifts per channel", remedy)

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        penalty = None if seen.penalty is None else seen.penalty()
        if penalty is None:
            raise RuntimeError("a penalty without an adapter that has one")
        return ObjectiveOutput(penalty.float())
