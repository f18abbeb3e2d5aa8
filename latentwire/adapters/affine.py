"""Per-channel scale and shift."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.ranges import Positive, Width
from latentwire.adapters.base import Adapter
from latentwire.adapters.calibration import Mode


class AffineAdapter(Adapter):
    """Scales and shifts, y = a * z + b per channel from a = 1, b = 0: for latents that are as wide as the model.

    Args:
        d_z: width of a latent.
        d_out: width of the result, equal to d_z.
        target: RMS that the calibration aims at.
        calibration: `batch`, `token` or `none`.
    """

    def __init__(self, d_z: Width, d_out: Width, target: Positive, calibration: Mode = "batch"):
        super().__init__(d_z, d_out, target, calibration)
        if d_z != d_out:
            found, expected = f"d_z = {d_z}", f"the width that latents are mapped to, {d_out}"
            raise UserError("adapter=affine, wire.d_z", found, expected, "set adapter=linear")
        self.scale = nn.Parameter(torch.ones(d_z))
        self.shift = nn.Parameter(torch.zeros(d_z))

    def raw(self, z: Tensor) -> Tensor:
        return self.scale * z + self.shift
