"""Faults of the frequency mask: everybody masked at once, and masked gradients that are zeros."""

from __future__ import annotations

from typing import Literal

import torch

from callbacks.ranges import Count, Seed, Share, Steps
from callbacks.stages.frequency import Cadence, FrequencyMask, Masking
from callbacks.step.context import StepContext


class InPhaseCadence(Cadence):
    """Lets a step be idle: where nobody is due, nobody updates. Arguments and attributes as of `Cadence`."""

    def due(self, t: int) -> set[str]:
        return self._chosen(t)


class InPhaseMask(FrequencyMask):
    """Masks all encoders in the same steps: every phase is 0, and between updates only the fusion trains.

    Breaks specification A2.3.

    Example::

        +fault=in_phase asgml.mode=frequency asgml.masking=hard asgml.delayed=all

    Limits: replays a fault; no run of a method uses it. Arguments as of `callbacks.FrequencyMask`, whose `phases` count
    for nothing.
    """

    def __init__(
        self,
        every: dict[str, Count],
        masking: Masking = "soft",
        soft_scale: Share = 0.1,
        phases: dict[str, Steps] | None = None,
        rule: Literal["fixed", "elapsed", "random"] = "fixed",
        seed: Seed = 0,
    ):
        super().__init__(every, masking, soft_scale, phases, rule, seed)
        self.cadence = InPhaseCadence(every, rule, dict.fromkeys(every, 0), seed)


class ZeroedGradientsMask(FrequencyMask):
    """Fills the gradients of a held encoder with zeros (`grad.zero_()`), where they have to be `None`.

    Momentum and weight decay then go on moving the weights in every step that was to leave them alone. Breaks
    specification A2.2. Normalisation statistics are restored as ever, so that nothing but the gradient is wrong.

    Example::

        +fault=zeroed_gradients asgml.mode=frequency asgml.masking=hard optimizer=sgd

    Limits: replays a fault; no run of a method uses it. Arguments as of `callbacks.FrequencyMask`; only `hard` and
    `accumulate` hold.
    """

    def on_gradients(self, ctx: StepContext) -> None:
        super().on_gradients(ctx)
        for name, action in self.actions.items():
            if action in ("hold", "accumulate"):
                for p in ctx.groups[name].params:
                    p.grad = torch.zeros_like(p)
