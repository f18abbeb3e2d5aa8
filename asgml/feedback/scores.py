"""Scores at test: how damaged a pixel and a picture are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from asgml.feedback.model.system import LOGIT_SCALE


def anomaly_map(
    levels: Sequence[Tensor], size: int, kernel: int = 7, sigma: float = 1.0, scale: float = LOGIT_SCALE
) -> Tensor:
    """Return how damaged each pixel is, (B, size, size) in [-0.5, 1.5].

    Per level `(c_damaged + 1 - c_normal) / 2` of the cosines, blurred, upsampled; the mean over levels, which ranks
    pixels as the published sum does.

    Args:
        levels: per level the logits (B, 2, h, w), which are `scale` times cosines.
        size: the side of the map.
        kernel: the side of the blur in patches, odd: 7 for industrial surfaces, 9 for medical ones (AA-CLIP).
        sigma: its standard deviation: 1 and 1.5.
        scale: the factor on cosines that the logits have.
    """
    total = []
    with torch.autocast(levels[0].device.type, enabled=False):  # would round scores in the convolutions of the blur
        for logits in levels:
            c = logits / scale
            score = ((c[:, 1] + 1 - c[:, 0]) / 2).unsqueeze(1)
            total.append(F.interpolate(_blur(score, kernel, sigma), (size, size), mode="bilinear", align_corners=True))
    return torch.stack(total).mean(0).squeeze(1)


def picture_score(scores: Tensor, logits: Tensor, detection: float = 0.5) -> Tensor:
    """Return how damaged each picture is, (B,): the largest pixel score, mixed with the picture's own probability.

    Args:
        scores: the map, (B, H, W).
        logits: of normal and damaged, (B, 2).
        detection: the share of the picture's own: 0.5 for industrial surfaces, 0 for medical ones (AA-CLIP).
    """
    return (1 - detection) * scores.flatten(1).amax(1) + detection * logits.softmax(1)[:, 1]


def _blur(x: Tensor, kernel: int, sigma: float) -> Tensor:
    """Return maps (B, 1, h, w) under a Gaussian, mirrored at the border as far as there is something to mirror."""
    at = torch.arange(kernel, dtype=x.dtype, device=x.device) - kernel // 2
    line = torch.exp(-0.5 * (at / sigma) ** 2)
    line = line / line.sum()
    pad = kernel // 2
    mode = "reflect" if min(x.shape[-2:]) > pad else "replicate"
    padded = F.pad(x, (pad, pad, pad, pad), mode=mode)
    return F.conv2d(F.conv2d(padded, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))
