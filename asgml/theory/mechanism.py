"""What is done to one path: rate, momentum, delay, interval, factor and unimodal loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Held = Literal["path", "encoder"]
Masking = Literal["hard", "soft", "fusion_preserving"]


@dataclass(frozen=True)
class Mechanism:
    """Holds how one path is trained.

    Attributes:
        lr: the learning rate eta.
        momentum: beta of the heavy ball, of the form `v = beta v + g`.
        tau: the delay in steps; before a gradient of that age exists the layers stand still.
        every: the interval k in steps: an update in steps 0, k, 2 k, …
        masking: what happens in the other steps: `hard` freezes the layers, `soft` scales their gradient by
            `soft_scale`, `fusion_preserving` removes the unimodal part of it.
        soft_scale: the factor of `soft`.
        factor: a constant factor on the steps of the held layers: a compensation, a matched rate, OGM-GE's k.
        gamma: the weight of the unimodal loss, whose head is a layer of its own.
        held: which layers delay, interval and factor concern: the whole `path`, or the `encoder` (all layers but the
            last), which is what the suite does: fusion and heads update in every step.
    """

    lr: float
    momentum: float = 0.0
    tau: int = 0
    every: int = 1
    masking: Masking = "hard"
    soft_scale: float = 0.1
    factor: float = 1.0
    gamma: float = 0.0
    held: Held = "path"

    def __post_init__(self) -> None:
        if self.tau < 0 or self.every < 1 or not 0 <= self.momentum < 1 or self.lr <= 0 or self.gamma < 0:
            raise ValueError("tau >= 0, every >= 1, 0 <= momentum < 1, lr > 0 and gamma >= 0 are needed")
