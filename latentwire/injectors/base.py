"""What every injector offers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentwire.lm.layout import Prefix


class Injector(nn.Module):
    """Base. An injector belongs to one language model, which it holds without owning its weights.

    It must be calibrated before use: `calibrate(latents of a training batch)`, or its state loaded.
    """

    def forward(self, z: Tensor) -> Prefix:
        """Latents (B, M, d_z) that this model reads -> what it reads them as."""
        raise NotImplementedError

    @torch.no_grad()
    def calibrate(self, z: Tensor) -> None:
        """Measures scales on latents (B, M, d_z) of a training batch."""
        raise NotImplementedError
