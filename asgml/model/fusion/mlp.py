"""Fusion by concatenation with a hidden layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asgml.model.fusion.base import Fusion
from callbacks.ranges import Count, Width


class ConcatMLP(Fusion):
    """Fuses by a hidden layer over all features: logits = W ReLU(V [f_1, …, f_M] + c) + b.

    An absent modality is a zero block of the concatenation. The hidden layer mixes the modalities, so that no part of
    the logits belongs to one of them: methods that read such parts read the unimodal heads.

    Args:
        dims: the width of each modality's feature.
        classes: the number of classes.
        dim: the width of the hidden layer.
    """

    def __init__(self, dims: dict[str, Width], classes: Count, dim: Width = 128):
        super().__init__(dims, classes)
        self.hidden = nn.Linear(sum(dims.values()), dim)
        self.linear = nn.Linear(dim, classes)

    def fuse(self, features: dict[str, Tensor], present: dict[str, Tensor] | None) -> Tensor:
        return self.linear(torch.relu(self.hidden(torch.cat([features[m] for m in self.dims], dim=1))))
