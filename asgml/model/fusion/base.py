"""What every fusion shares."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from callbacks.ranges import Count, Width


def keep(value: Tensor, present: Tensor | None) -> Tensor:
    """Return `value` (B, …) with 0 in the rows where `present` (B,) is False; None keeps all.

    A mask of more axes selects along them as well: (B, T) for the steps of (B, T, d). This is a selection, not a
    product: NaN in an absent row reaches neither the result nor a gradient.
    """
    if present is None:
        return value
    return torch.where(present.reshape(*present.shape, *[1] * (value.dim() - present.dim())), value, 0.0)


class Fusion(nn.Module):
    """Base of the fusions: features (B, dims[m]) per modality -> logits (B, classes).

    Args:
        dims: the width of each modality's feature; the order of the keys is that of the parameters.
        classes: the number of classes.
    """

    def __init__(self, dims: dict[str, Width], classes: Count):
        super().__init__()
        self.dims = dict(dims)
        self.classes = classes

    def forward(self, features: dict[str, Tensor], present: dict[str, Tensor] | None = None) -> Tensor:
        """Return the logits (B, classes).

        Args:
            features: the features (B, dims[m]) of every modality; rows of absent modalities may hold anything.
            present: whether each row has the modality, (B,) bool per modality; None is bit-identical to masks of True.
        """
        masks = dict.fromkeys(self.dims) if present is None else present
        return self.fuse({m: keep(features[m], masks[m]) for m in self.dims}, present)

    def fuse(self, features: dict[str, Tensor], present: dict[str, Tensor] | None) -> Tensor:
        """Return the logits (B, classes) of features that are 0 where absent; arguments as in `forward`."""
        raise NotImplementedError

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor | None:
        """Return the part (B, classes) of the fused logits that belongs to `modality`; None where there is none.

        Only `features[modality]` is read; its rows may be the present ones alone. Over all modalities, all present, the
        parts sum to the fused logits.
        """
        return None
