"""What every fusion shares."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def keep(value: Tensor, present: Tensor | None) -> Tensor:
    """`value` (B, d) with the rows where `present` (B,) is False set to 0; None keeps all.

    A selection, not a product: NaN in an absent row reaches neither the result nor a gradient.
    """
    return value if present is None else torch.where(present.unsqueeze(1), value, 0.0)


class Fusion(nn.Module):
    """Features (B, dims[m]) per modality -> logits (B, classes).

    Args:
        dims: width of each modality's feature; the order of the keys is that of the parameters.
        classes: number of classes.
    """

    def __init__(self, dims: dict[str, int], classes: int):
        super().__init__()
        self.dims = dict(dims)
        self.classes = classes

    def forward(self, features: dict[str, Tensor], present: dict[str, Tensor] | None = None) -> Tensor:
        """Logits (B, classes).

        Args:
            features: (B, dims[m]) for every modality; rows of absent modalities may hold anything.
            present: (B,) bool per modality; None: all present, bit-identical to masks of True.
        """
        masks = dict.fromkeys(self.dims) if present is None else present
        return self.fuse({m: keep(features[m], masks[m]) for m in self.dims}, present)

    def fuse(self, features: dict[str, Tensor], present: dict[str, Tensor] | None) -> Tensor:
        """`forward` on features that are 0 where absent."""
        raise NotImplementedError

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor | None:
        """The part (B, classes) of the fused logits that belongs to `modality`; None where there is no such part.

        Only `features[modality]` is read; its rows may be the present ones alone. Over all modalities, all
        present, the parts sum to the fused logits.
        """
        return None
