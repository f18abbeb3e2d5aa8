"""Residual two-layer MLP."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from callbacks.ranges import DropoutRate, Layers, Positive, Width
from latentwire.adapters.base import Adapter
from latentwire.adapters.calibration import Mode
from latentwire.adapters.ridge import fit_linear
from latentwire.encoders.transformer import feed_forward, hush


class MLPAdapter(Adapter):
    """Maps by a residual MLP: x = W z + b, y = x + W_2 dropout(GELU(W_1 norm(x))); W_2 starts close to 0.

    Args:
        d_z: width of a latent.
        d_out: width of the result.
        target: RMS that the calibration aims at.
        expansion: hidden width over d_out.
        dropout: dropout of the hidden layer.
        calibration: `batch`, `token` or `none`.
    """

    def __init__(
        self,
        d_z: Width,
        d_out: Width,
        target: Positive,
        expansion: Layers = 4,
        dropout: DropoutRate = 0.1,
        calibration: Mode = "batch",
    ):
        super().__init__(d_z, d_out, target, calibration)
        self.linear = nn.Linear(d_z, d_out)
        self.mlp = feed_forward(d_out, dropout, expansion)
        nn.init.zeros_(self.linear.bias)
        hush(self.mlp[-1])

    def raw(self, z: Tensor) -> Tensor:
        x = self.linear(z)
        return x + self.mlp(x)

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        fit_linear(self.linear, pairs)
