"""A linear map, calibrated, and then a scale and a shift per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from callbacks.ranges import Positive, Width
from latentwire.adapters.calibration import Mode
from latentwire.adapters.linear import LinearAdapter


class ChannelAffineAdapter(LinearAdapter):
    """Scales and shifts what is calibrated already, y = a * u + c * unit, u = calibration(W z + b), a = 1, c = 0.

    One gain for all channels cannot tell them apart, and W changes their sizes and what they say at once. unit is the
    size that the calibration aims at, so a and c are in its terms and one penalty fits every reader:
    mean (a - 1)^2 + mean c^2, taken by `objective=adapter_l2`.

    Args:
        d_z: width of a latent.
        d_out: width of the result.
        target: RMS that the calibration aims at.
        calibration: `batch`, `token` or `none`.
    """

    def __init__(self, d_z: Width, d_out: Width, target: Positive, calibration: Mode = "batch"):
        super().__init__(d_z, d_out, target, calibration)
        self.scale = nn.Parameter(torch.ones(d_out))
        self.shift = nn.Parameter(torch.zeros(d_out))

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * super().forward(z) + self.shift * self.calibration.unit()

    def penalty(self) -> Tensor:
        return (self.scale - 1).pow(2).mean() + self.shift.pow(2).mean()
