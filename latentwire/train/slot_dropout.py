"""Latent dropout: in training, readers miss some slots of a message."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from callbacks.ranges import OpenShare, Steps
from latentwire.train.curriculum import Linear

STREAM = 0x736C6F  # sets these draws apart from others of the same seed


class SlotDropout:
    """Sets slots of a message to 0, each with probability 1 - keep(t); at least one of a message is kept.

    Nothing is scaled: a slot that is kept says the same as in evaluation, where all are. Whatever one slot alone would
    say is missed now and then, so that slots share what matters. keep(t) goes from `first` to `last` in a straight line
    and stays below 1 to the end: slots that were never missed learn to rely on each other again. All models and all
    objectives read the same slots in a step. Validation and evaluation read whole messages.

    Draws are a function of seed, step and text: no rank, no part of a batch and no restart differs.

    Args:
        first: share of slots that are kept until `start`.
        last: the share from `start + steps` on.
        steps: the length of the way, in committed steps.
        start: where it begins.
    """

    def __init__(self, first: OpenShare = 0.5, last: OpenShare = 0.85, steps: Steps = 1000, start: Steps = 0):
        self._keep = Linear(first, last, steps, start)

    def keep(self, t: int) -> float:
        """Return the share of slots that are kept at step t."""
        return self._keep.weight(t, {})

    def kept(self, texts: Sequence[Sequence[int]], slots: int, seed: int, t: int) -> Tensor:
        """Return which slots are kept, (texts, slots, 1) bool, at least one of each text.

        Args:
            texts: whole numbers from 0 that name each text within the step.
            slots: number of slots of a message.
            seed: seed of the run.
            t: number of committed steps.
        """
        share, rows = self.keep(t), []
        for name in texts:
            draws = np.random.default_rng([seed, STREAM, t, *name]).random(slots)
            rows.append(draws < max(share, float(draws.min()) + 1e-12))
        return torch.from_numpy(np.stack(rows)).unsqueeze(-1)
