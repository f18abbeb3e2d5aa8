"""What every adapter offers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from callbacks.ranges import Positive, Width
from latentwire.adapters.calibration import AT_ONCE, Calibration, Mode


class Adapter(nn.Module):
    """Brings latents to the width and scale of one model: the subclass's `raw`, then the calibration.

    Args:
        d_z: width of a latent.
        d_out: width of the result: d_model of the language model for embeddings.
        target: RMS that the calibration aims at.
        calibration: `batch`, `token` or `none`.
    """

    def __init__(self, d_z: Width, d_out: Width, target: Positive, calibration: Mode):
        super().__init__()
        self.d_z, self.d_out = d_z, d_out
        self.calibration = Calibration(target, calibration)

    def raw(self, z: Tensor) -> Tensor:
        """Map (B, M, d_z) to (B, M, d_out), uncalibrated."""
        raise NotImplementedError

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, M, d_z) to (B, M, d_out). Raises RuntimeError before `calibrate` with calibration `batch`."""
        return self.calibration(self.raw(z))

    def penalty(self) -> Tensor | None:
        """Return what `AdapterL2` penalises, () of a differentiable number; None: nothing."""
        return None

    @torch.no_grad()
    def calibrate(self, z: Tensor) -> None:
        """Measure the uncalibrated scale on latents (B, M, d_z) of a training batch; dropout is off meanwhile."""
        training = self.training
        self.eval()
        self.calibration.measure(self.raw(part) for part in z.split(AT_ONCE))
        self.train(training)

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Start from the least-squares map of latents to targets, before `calibrate`.

        Adapters without a linear map of their own stay as they are (FiLM, affine).

        Args:
            pairs: batches of latents (B, M, d_z) and of their targets (B, M, d_out); read once, one at a time.
        """
