"""Scales the gradient that reaches an encoder."""

from __future__ import annotations

from torch import Tensor

from asgml.methods.base import Step


def scale_feature_gradient(step: Step, modality: str, factor: Tensor) -> None:
    """Multiply what reaches the encoder of `modality` in this step by `factor` (0-d or (B, 1)).

    The gradient of every loss at the feature, so with a 0-d factor the encoder's whole gradient.
    """
    f = step.features[modality]
    if f.requires_grad:
        f.register_hook(lambda g: g * factor.to(g.dtype))
