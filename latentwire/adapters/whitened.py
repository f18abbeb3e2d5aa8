"""One linear map of latents that were brought to mean 0 and size 1 in every channel, or in every direction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from callbacks.ranges import Positive, Width
from latentwire.adapters.base import Adapter
from latentwire.adapters.calibration import Mode
from latentwire.adapters.ridge import fit_linear

LEAST = 1e-3  # of the mean variance: a direction that no text has used would be blown up without bounds


class WhitenedAdapter(Adapter):
    """Maps linearly what is standardised, y = W U (z - m) + b.

        channels     U = diag(1 / s)                 s: standard deviation of each channel
        directions   U = C^(-1/2)                    C: covariance, symmetric root (ZCA, Bell and Sejnowski, 1997)

    m, s and C are those of all slots of the training texts at calibration and stay: a row's result never depends on its
    neighbours, and is the same in training and evaluation (batch statistics would be neither). Variances below
    `LEAST` of their mean count as that. Calibration changes W and b along with U and m, so that the map is the same
    before and after, and what was fitted stays: another is the geometry in which it learns on.

    Args:
        d_z: width of a latent.
        d_out: width of the result.
        target: RMS that the calibration aims at.
        by: what is standardised, `channels` or `directions`.
        calibration: `batch`, `token` or `none`.
    """

    mean: Tensor
    root: Tensor

    def __init__(
        self,
        d_z: Width,
        d_out: Width,
        target: Positive,
        by: Literal["channels", "directions"] = "directions",
        calibration: Mode = "batch",
    ):
        super().__init__(d_z, d_out, target, calibration)
        self.by = by
        self.linear = nn.Linear(d_z, d_out)
        self.register_buffer("mean", torch.zeros(d_z))
        self.register_buffer("root", torch.eye(d_z))

    def raw(self, z: Tensor) -> Tensor:
        return self.linear((z - self.mean) @ self.root.T)

    @torch.no_grad()
    def calibrate(self, z: Tensor) -> None:
        x = z.flatten(0, -2).double()
        mean, covariance = x.mean(0), x.T.cov(correction=0).reshape(self.d_z, self.d_z)
        if self.by == "channels":
            covariance = covariance.diagonal().diag()
        variance, axes = torch.linalg.eigh(covariance)
        variance = variance.clamp(min=max(LEAST * float(variance.mean()), 1e-12))
        root, back = ((axes * variance.pow(power)) @ axes.T for power in (-0.5, 0.5))
        weight, own = self.linear.weight.double(), self.root.double()
        self.linear.bias.add_(weight @ own @ (mean - self.mean))
        self.linear.weight.copy_(weight @ own @ back)
        self.mean.copy_(mean)
        self.root.copy_(root)
        super().calibrate(z)

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        fit_linear(self.linear, (((z - self.mean) @ self.root.T, target) for z, target in pairs))
