"""The losses of anomaly maps and pictures: focal and dice on pixels, cross-entropy on pictures, anchors kept apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from asgml.train.distributed import rank_weight
from callbacks.step.ranks import sum_over_ranks, world_size


def probabilities(logits: Tensor, size: int) -> Tensor:
    """Return the probabilities of normal and damaged, (B, 2, size, size), of logits (B, 2, h, w), upsampled first."""
    return F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=True).softmax(1)


def focal(p: Tensor, mask: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the mean over pixels of -(1 - p_t)^gamma log p_t (0-d), with p_t the probability of what a pixel is.

    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, Eq. 4, without class weights.

    Args:
        p: probabilities of normal and damaged, (B, 2, H, W).
        mask: what is damaged, (B, H, W) bool.
        gamma: the exponent.
    """
    right = torch.where(mask, p[:, 1], p[:, 0]).clamp_min(torch.finfo(p.dtype).eps)
    return (-((1 - right) ** gamma) * right.log()).mean()


def dice(p: Tensor, target: Tensor) -> Tensor:
    """Return the mean over pictures of 1 - (2 sum p t + 1) / (sum p + sum t + 1) (0-d).

    Source: Milletari et al., V-Net, 3DV 2016, with sums of first powers in the denominator and 1 added to both parts.

    Args:
        p: a probability per pixel, (B, H, W).
        target: where it should be 1, (B, H, W) bool.
    """
    t = target.to(p.dtype)
    both = (p * t).sum((1, 2))
    return (1 - (2 * both + 1) / (p.sum((1, 2)) + t.sum((1, 2)) + 1)).mean()


def map_loss(levels: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return the sum over levels of focal loss and dice of both maps (0-d): normal to 1 - mask, damaged to mask.

    Args:
        levels: per level the logits (B, 2, h, w).
        mask: what is damaged, (B, H, H) bool.
    """
    total = mask.new_zeros((), dtype=levels[0].dtype)
    for logits in levels:
        p = probabilities(logits, mask.shape[-1])
        total = total + focal(p, mask) + dice(p[:, 0], ~mask) + dice(p[:, 1], mask)
    return total


def anchors_apart(anchors: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Return the squared mean inner product of both anchors, (B, 2, d), over the pictures of all ranks (0-d).

    With several ranks the mean over ranks of what is returned, and of its gradient, is that of one rank with all
    pictures: `m (2 m_r - m)` of the mean m over ranks, which is taken as a number, and of this rank's m_r.

    Args:
        anchors: the anchors.
        weight: what this rank's pictures count for (`rank_weight`).
    """
    own = weight * (anchors[:, 0] * anchors[:, 1]).sum(1).mean()
    if world_size() == 1:
        return own.square()
    mean = sum_over_ranks(own.detach()) / world_size()
    return mean * (2 * own - mean)


def text_loss(levels: Sequence[Tensor], mask: Tensor, anchors: Tensor, apart: float = 0.1) -> Tensor:
    """Return the loss of stage 1 (0-d): that of the maps, and that of anchors that look alike, weighted by `apart`.

    The mean over ranks is that of all pictures.
    """
    weight = rank_weight(len(mask), anchors)
    return weight * map_loss(levels, mask) + apart * anchors_apart(anchors, weight)


def image_loss(levels: Sequence[Tensor], logits: Tensor, mask: Tensor, label: Tensor) -> Tensor:
    """Return the loss of stage 2 (0-d): that of the maps, and cross-entropy of the pictures; over ranks as `text_loss`.

    Args:
        levels: per level the logits of patches, (B, 2, h, w).
        logits: those of pictures, (B, 2).
        mask: what is damaged, (B, H, H) bool.
        label: which pictures show something damaged, (B,) int64.
    """
    return rank_weight(len(mask), logits) * (map_loss(levels, mask) + F.cross_entropy(logits, label))
