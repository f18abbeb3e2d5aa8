"""Feature-wise linear modulation by the message as a whole, or by each slot."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from callbacks.ranges import Positive, Width
from latentwire.adapters.base import Adapter
from latentwire.adapters.calibration import Mode


class FiLMAdapter(Adapter):
    """Modulates per channel (FiLM, Perez et al., 2018, Eqs. 1–2): y = (1 + gamma) * (W z + b) + beta.

    gamma and beta come from an MLP on the mean latent of the message, alike for all slots, or on each slot's own
    latent: a slot then says by itself how it is to be read. It starts near W z + b (last layer of the MLP: standard
    deviation 0.01).

    Args:
        d_z: width of a latent.
        d_out: width of the result.
        target: RMS that the calibration aims at.
        hidden: hidden width of the MLP.
        calibration: `batch`, `token` or `none`.
        by: what gamma and beta follow from, the `message` or each `slot`.
    """

    def __init__(
        self,
        d_z: Width,
        d_out: Width,
        target: Positive,
        hidden: Width = 64,
        calibration: Mode = "batch",
        by: Literal["message", "slot"] = "message",
    ):
        super().__init__(d_z, d_out, target, calibration)
        self.by = by
        self.linear = nn.Linear(d_z, d_out)
        last = nn.Linear(hidden, 2 * d_out)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.modulation = nn.Sequential(nn.Linear(d_z, hidden), nn.GELU(), last)

    def raw(self, z: Tensor) -> Tensor:
        gamma, beta = self.modulation(z if self.by == "slot" else z.mean(1, keepdim=True)).chunk(2, -1)
        return (1 + gamma) * self.linear(z) + beta
