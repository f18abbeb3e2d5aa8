"""Transformer over the slots of a message, for a model that was not there when the wire was trained."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from callbacks.ranges import DropoutRate, Layers, Positive, Width
from latentwire.adapters.base import Adapter
from latentwire.adapters.calibration import Mode
from latentwire.adapters.ridge import fit_linear
from latentwire.encoders.transformer import Transformer


class RefinerAdapter(Adapter):
    """Maps by y = blocks(W z + b): pre-norm transformer blocks over the slots, each close to the identity at the start.

    What one model spreads over tokens other than another's lies in neighbouring slots: a map slot by slot cannot bring
    it together. Positions are rotary, 0 … M - 1.

    Args:
        d_z: width of a latent.
        d_out: width of the result.
        target: RMS that the calibration aims at.
        layers: number of blocks.
        heads: attention heads; d_out / heads must be an even whole number.
        dropout: dropout of attention weights and branches.
        calibration: `batch`, `token` or `none`.
    """

    def __init__(
        self,
        d_z: Width,
        d_out: Width,
        target: Positive,
        layers: Layers = 2,
        heads: Width = 4,
        dropout: DropoutRate = 0.1,
        calibration: Mode = "batch",
    ):
        super().__init__(d_z, d_out, target, calibration)
        self.linear = nn.Linear(d_z, d_out)
        nn.init.zeros_(self.linear.bias)
        self.blocks = Transformer(d_out, layers, heads, dropout, where="adapter", width="injector.width")

    def raw(self, z: Tensor) -> Tensor:
        refined: Tensor = self.blocks(self.linear(z))
        return refined

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        fit_linear(self.linear, pairs)
