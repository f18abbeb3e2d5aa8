"""Fusion by gates: the gated multimodal unit."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from asgml.model.fusion.base import Fusion
from asgml.model.modality_dict import ModalityDict
from callbacks.ranges import Count, Width
from callbacks.stages.branch import Branch


class Gated(Fusion):
    """Fuses by the gated multimodal unit (Arevalo et al., ICLR workshop 2017, Eqs. 1–5).

        h_m = tanh(P_m f_m + c_m),    s_m = V_m [f_1, …, f_M] + d_m,    h = sum_m z_m * h_m,    logits = W h + b

    with gates z per hidden unit: `softmax` over the modalities (for two modalities this is the bimodal unit, z and
    1 - z with z = sigmoid(s_1 - s_2)), or an independent `sigmoid` each, as in the paper's unit for more than two. An
    absent modality has gate 0, the others share the softmax, and their gates see 0 in its place.

    Args:
        dims: the width of each modality's feature.
        classes: the number of classes.
        dim: the width of h.
        gate: how gates follow from the scores s, `softmax` or `sigmoid`.
    """

    def __init__(
        self,
        dims: dict[str, Width],
        classes: Count,
        dim: Width = 128,
        gate: Literal["softmax", "sigmoid"] = "softmax",
    ):
        super().__init__(dims, classes)
        self.gate = gate
        self.projections = ModalityDict({m: nn.Linear(d, dim) for m, d in dims.items()})
        self.scores = ModalityDict({m: nn.Linear(sum(dims.values()), dim) for m in dims})
        self.linear = nn.Linear(dim, classes)
        self.branch = Branch()

    def fuse(self, features: dict[str, Tensor], present: dict[str, Tensor] | None) -> Tensor:
        everything = torch.cat([features[m] for m in self.dims], dim=1)
        hidden = torch.stack([torch.tanh(self.projections[m](features[m])) for m in self.dims], dim=1)  # (B, M, dim)
        scores = torch.stack([self.scores[m](everything) for m in self.dims], dim=1)
        mask = None if present is None else torch.stack([present[m] for m in self.dims], dim=1)  # (B, M)
        mixed = (self._gates(scores, mask) * hidden).sum(1)
        if self.branch.watched:  # without it all scores are 0: equal shares, or half of everything
            mixed = self.branch(mixed, (self._gates(torch.zeros_like(scores), mask) * hidden).sum(1))
        return self.linear(mixed)

    def _gates(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return scores.softmax(1) if self.gate == "softmax" else scores.sigmoid()
        there = mask.unsqueeze(2)
        if self.gate == "softmax":
            # -inf removes a modality from the softmax; a row with none at all keeps finite scores, lest it become NaN.
            scores = torch.where(there | ~there.any(1, keepdim=True), scores, -torch.inf).softmax(1)
        else:
            scores = scores.sigmoid()
        return torch.where(there, scores, 0.0)
