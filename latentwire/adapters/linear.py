"""One linear map."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from callbacks.ranges import Positive, Width
from latentwire.adapters.base import Adapter
from latentwire.adapters.calibration import Mode
from latentwire.adapters.ridge import fit_linear


class LinearAdapter(Adapter):
    """Maps linearly, y = W z + b.

    Args:
        d_z: width of a latent.
        d_out: width of the result.
        target: RMS that the calibration aims at.
        calibration: `batch`, `token` or `none`.
    """

    def __init__(self, d_z: Width, d_out: Width, target: Positive, calibration: Mode = "batch"):
        super().__init__(d_z, d_out, target, calibration)
        self.linear = nn.Linear(d_z, d_out)

    def raw(self, z: Tensor) -> Tensor:
        return self.linear(z)

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        fit_linear(self.linear, pairs)
