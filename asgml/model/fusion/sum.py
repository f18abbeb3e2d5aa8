"""Fusion by summation: a linear layer per modality, added up."""

from __future__ import annotations

from torch import Tensor, nn

from asgml.model.fusion.base import Fusion, keep
from asgml.model.modality_dict import ModalityDict
from callbacks.ranges import Count, Width


class Sum(Fusion):
    """Fuses by summation: logits = sum_m (W_m f_m + b_m); the part of a modality is its summand, bias included.

    Args:
        dims: the width of each modality's feature.
        classes: the number of classes.
    """

    def __init__(self, dims: dict[str, Width], classes: Count):
        super().__init__(dims, classes)
        self.linears = ModalityDict({m: nn.Linear(dim, classes) for m, dim in dims.items()})

    def fuse(self, features: dict[str, Tensor], present: dict[str, Tensor] | None) -> Tensor:
        parts = [keep(self.linears[m](features[m]), None if present is None else present[m]) for m in self.dims]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        return self.linears[modality](features[modality])
