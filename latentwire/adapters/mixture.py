"""Several linear maps, mixed by what a slot holds."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from callbacks.ranges import Count, Positive, Width
from latentwire.adapters.base import Adapter
from latentwire.adapters.calibration import Mode
from latentwire.adapters.ridge import fit_linear

APART = 0.1  # how far experts start from the map that all of them are fitted to, over its own size


class MixtureAdapter(Adapter):
    """Mixes experts (Jacobs et al., 1991): y = sum_e softmax(G z)_e (W_e z + b_e), slot by slot.

    All experts are computed, so nothing has to be balanced; the gate starts at equal shares. `fit` sets all to the
    least-squares map, a little apart from each other, or they would stay alike.

    Args:
        d_z: width of a latent.
        d_out: width of the result.
        target: RMS that the calibration aims at.
        experts: number of maps.
        calibration: `batch`, `token` or `none`.
    """

    def __init__(self, d_z: Width, d_out: Width, target: Positive, experts: Count = 4, calibration: Mode = "batch"):
        super().__init__(d_z, d_out, target, calibration)
        self.experts = nn.ModuleList(nn.Linear(d_z, d_out) for _ in range(experts))
        self.gate = nn.Linear(d_z, experts, bias=False)
        nn.init.zeros_(self.gate.weight)

    def raw(self, z: Tensor) -> Tensor:
        share = self.gate(z).softmax(-1)
        return torch.stack([share[..., i, None] * expert(z) for i, expert in enumerate(self.experts)]).sum(0)

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        first = self.experts[0]
        assert isinstance(first, nn.Linear)
        fit_linear(first, pairs)
        size = first.weight.pow(2).mean().sqrt()
        for expert in self.experts[1:]:
            expert.load_state_dict(first.state_dict())
            assert isinstance(expert, nn.Linear)
            expert.weight.add_(APART * size * torch.randn_like(expert.weight))
