"""Fusion by concatenation: one linear layer over all features side by side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asgml.model.fusion.base import Fusion
from callbacks.ranges import Count, Width


class Concat(Fusion):
    """Fuses by concatenation: logits = W [f_1, …, f_M] + b.

    The part of a modality is W_m f_m + b / M (Peng et al., OGM-GE, CVPR 2022, Eq. 6), with W_m the columns `slices[m]`
    of W.

    Args:
        dims: the width of each modality's feature.
        classes: the number of classes.
    """

    def __init__(self, dims: dict[str, Width], classes: Count):
        super().__init__(dims, classes)
        self.linear = nn.Linear(sum(dims.values()), classes)
        self.slices: dict[str, slice] = {}
        start = 0
        for modality, dim in dims.items():
            self.slices[modality] = slice(start, start + dim)
            start += dim

    def fuse(self, features: dict[str, Tensor], present: dict[str, Tensor] | None) -> Tensor:
        return self.linear(torch.cat([features[m] for m in self.dims], dim=1))

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        weight = self.linear.weight[:, self.slices[modality]]
        return F.linear(features[modality], weight, self.linear.bias / len(self.dims))
