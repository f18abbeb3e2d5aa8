"""What every adapter offers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentwire.adapters.calibration import Calibration, Mode


class Adapter(nn.Module):
    """Base: `forward` is the subclass's `raw` followed by the calibration.

    Args:
        d_z: width of a latent.
        d_out: width of the result: d_model of the language model for embeddings.
        target: RMS that the calibration aims at.
        calibration: `batch`, `token` or `none`.
    """

    def __init__(self, d_z: int, d_out: int, target: float, calibration: Mode):
        super().__init__()
        self.d_z, self.d_out = d_z, d_out
        self.calibration = Calibration(target, calibration)

    def raw(self, z: Tensor) -> Tensor:
        """(B, M, d_z) -> (B, M, d_out), uncalibrated."""
        raise NotImplementedError

    def forward(self, z: Tensor) -> Tensor:
        """(B, M, d_z) -> (B, M, d_out). Raises RuntimeError before `calibrate` with calibration `batch`."""
        return self.calibration(self.raw(z))

    @torch.no_grad()
    def calibrate(self, z: Tensor) -> None:
        """Measures the uncalibrated scale on latents (B, M, d_z) of a training batch; dropout is off meanwhile."""
        training = self.training
        self.eval()
        self.calibration.measure(self.raw(z))
        self.train(training)

    @torch.no_grad()
    def fit(self, z: Tensor, y: Tensor) -> None:
        """Starts from the least-squares map of latents (B, M, d_z) to targets (B, M, d_out), before `calibrate`;
        adapters without a linear map of their own leave it (FiLM, affine).
        """
