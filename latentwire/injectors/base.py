"""What every injector offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from latentwire.lm.layout import Prefix

Start = Literal["text", "random"]


class Injector(nn.Module):
    """Base. An injector belongs to one language model, which it holds without owning its weights.

    It must be calibrated before use: `calibrate(latents of a training batch)`, or its state loaded.
    """

    def forward(self, z: Tensor) -> Prefix:
        """Latents (B, M, d_z) that this model reads -> what it reads them as."""
        raise NotImplementedError

    @torch.no_grad()
    def calibrate(self, z: Tensor, texts: Sequence[str] | None = None, counts: Sequence[int] | None = None) -> None:
        """Measures scales on latents (B, M, d_z) of a training batch.

        Args:
            texts: the B texts of the latents; with them an injector may start from what its model makes of them
                (see `fitting`).
            counts: slots of the slices in z, in order, each covering the whole text; None: one slice.
        """
        raise NotImplementedError
