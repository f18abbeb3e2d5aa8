"""Fusion by feature-wise linear modulation (FiLM)."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor, nn

from asgml.model.fusion.base import Fusion, keep
from asgml.model.modality_dict import ModalityDict
from callbacks.errors import UserError
from callbacks.ranges import Count, Width
from callbacks.stages.branch import Branch


class FiLM(Fusion):
    """Lets one modality c modulate the others (FiLM: Perez et al., AAAI 2018, Eq. 2, with gamma = 1 + delta).

        h = beta(f_c) + sum_{m != c} (1 + delta_m(f_c)) * P_m f_m,    logits = W h + b

    with linear beta, delta_m and P_m. Two modalities give the published layer, gamma * x + beta. More have a scale each
    and share the shift, which depends on f_c alone. So an absent m leaves out its summand and nothing else, an absent c
    leaves the others unmodulated (delta = 0, beta = 0), and a single modality is classified by W beta(f_c) + b.

    Args:
        dims: the width of each modality's feature.
        classes: the number of classes.
        dim: the width of h.
        modulator: the modality c; null is the first.

    Raises:
        UserError: a modulator that is no modality.
    """

    def __init__(self, dims: dict[str, Width], classes: Count, dim: Width = 128, modulator: str | None = None):
        super().__init__(dims, classes)
        if modulator is not None and modulator not in dims:
            near = difflib.get_close_matches(modulator, dims, 1)
            raise UserError(
                "model.fusion.modulator",
                modulator,
                f"one of {', '.join(dims)}",
                f"did you mean {near[0]}?" if near else "set model.fusion.modulator=null for the first",
            )
        self.modulator = next(iter(dims)) if modulator is None else modulator
        others = {m: d for m, d in dims.items() if m != self.modulator}
        self.shift = nn.Linear(dims[self.modulator], dim)
        self.scales = ModalityDict({m: nn.Linear(dims[self.modulator], dim) for m in others})
        self.projections = ModalityDict({m: nn.Linear(d, dim) for m, d in others.items()})
        self.linear = nn.Linear(dim, classes)
        self.branch = Branch()

    def fuse(self, features: dict[str, Tensor], present: dict[str, Tensor] | None) -> Tensor:
        masks: dict[str, Tensor | None] = {m: None if present is None else present[m] for m in self.dims}
        condition, given = features[self.modulator], masks[self.modulator]
        h = keep(self.shift(condition), given)
        for m in self.dims:
            if m != self.modulator:
                scale = 1.0 + keep(self.scales[m](condition), given)
                h = h + keep(torch.mul(scale, self.projections[m](features[m])), masks[m])
        if self.branch.watched:  # without it h is what nobody modulates: delta = 0, beta = 0
            others = [keep(p(features[m]), masks[m]) for m, p in self.projections.items()]
            h = self.branch(h, torch.stack(others).sum(0) if others else torch.zeros_like(h))
        return self.linear(h)
