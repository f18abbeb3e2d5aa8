"""RhythmParts: the classes that a rhythm is built of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from asgml.rhythm.dynamics import DynamicsTracker
from callbacks.stages.frequency import FrequencyMask
from callbacks.stages.staleness import StalenessBuffer


@dataclass(frozen=True)
class RhythmParts:
    """Holds what makes the parts of a rhythm; a class of your own in one of these places is a variation of that part.

    Attributes:
        buffer: makes the stage that delays gradients; called with the parameters of `callbacks.StalenessBuffer`.
        mask: makes the stage that holds encoders back; called with the parameters of `callbacks.FrequencyMask`.
        tracker: makes what measures the speed of each modality; called with those of `DynamicsTracker`.
    """

    buffer: Callable[..., StalenessBuffer] = StalenessBuffer
    mask: Callable[..., FrequencyMask] = FrequencyMask
    tracker: Callable[..., DynamicsTracker] = DynamicsTracker
