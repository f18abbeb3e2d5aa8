"""What a branch reads and how it joins a stream: each variant of cross-attention adds one thing to the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: what an image reads of a text: every token, or their mean as one
ContextName = Literal["tokens", "mean"]
VariantName = Literal["full", "scaled", "normalised", "norm_matched", "learnable"]


@dataclass(frozen=True)
class Variant:
    """Says how a branch joins its stream.

    Attributes:
        scaled: whether the branch has a weight (0.1 by default); without one it is added at full scale.
        normalised: whether what the attention reads, context and queries, is normalised (LayerNorm) first.
        matched: whether the branch is brought to the norm of its stream, token by token, before it is weighted.
        learnable: whether the weight is a parameter.
    """

    scaled: bool
    normalised: bool
    matched: bool
    learnable: bool


#: each variant adds one thing to the one before it; `full` is how gradient dilution was first met
VARIANTS: dict[VariantName, Variant] = {
    "full": Variant(scaled=False, normalised=False, matched=False, learnable=False),
    "scaled": Variant(scaled=True, normalised=False, matched=False, learnable=False),
    "normalised": Variant(scaled=True, normalised=True, matched=False, learnable=False),
    "norm_matched": Variant(scaled=True, normalised=True, matched=True, learnable=False),
    "learnable": Variant(scaled=True, normalised=True, matched=True, learnable=True),
}
