"""AUROC, average precision, F1-max and AUPRO from counts at falling thresholds, each with the error of equal scores.

All take counts by score, the highest first. Scores that a histogram has put into one bin are equal to these functions;
`Value.error` says by how much the number could differ if they were told apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FPR_LIMIT = 0.3


@dataclass(frozen=True)
class Value:
    """Holds a metric and how far the histogram can have moved it.

    Attributes:
        value: the metric, in [0, 1].
        error: the largest distance to the metric of the scores before they were put into bins; 0 where every bin has
            at most one of them.
    """

    value: float
    error: float


def auroc(positive: Tensor, negative: Tensor) -> Value | None:
    """Return P(s+ > s-) + P(s+ = s-) / 2, the area under the ROC curve (Hanley and McNeil, 1982); None without both.

    Args:
        positive: the number of positives by score, falling, (K,).
        negative: that of negatives, (K,).
    """
    p, n = positive.double(), negative.double()
    total = p.sum() * n.sum()
    if not total > 0:
        return None
    below = n.sum() - n.cumsum(0)
    return Value(float((p * (below + n / 2)).sum() / total), float((p * n).sum() / (2 * total)))


def average_precision(positive: Tensor, negative: Tensor) -> Value | None:
    """Return sum_k (R_k - R_{k-1}) P_k over distinct thresholds, without interpolation; None without positives.

    Args:
        positive: the number of positives by score, falling, (K,).
        negative: that of negatives, (K,).
    """
    p, n = positive.double(), negative.double()
    if not p.sum() > 0:
        return None
    tp, fp = p.cumsum(0), n.cumsum(0)
    gain = p / p.sum()
    value = (gain * _ratio(tp, tp + fp)).sum()
    # positives of a bin before its negatives, and behind them; precision rises along the positives of a bin
    best = (gain * _ratio(tp, tp + fp - n)).sum()
    first = tp - p + (p > 0)
    worst = (gain * _ratio(first, first + fp)).sum()
    return Value(float(value), float(torch.maximum(best - value, value - worst)))


def f1_max(positive: Tensor, negative: Tensor) -> Value | None:
    """Return the largest F1 = 2 TP / (P + TP + FP) of all thresholds; None without positives.

    Args:
        positive: the number of positives by score, falling, (K,).
        negative: that of negatives, (K,).
    """
    p, n = positive.double(), negative.double()
    total = p.sum()
    if not total > 0:
        return None
    tp, fp = p.cumsum(0), n.cumsum(0)
    value = (2 * tp / (total + tp + fp)).max()
    best = (2 * tp / (total + tp + fp - n)).max()  # a threshold within a bin that parts its kinds
    return Value(float(value), float(best - value))


def aupro(overlap: Tensor, negative: Tensor, limit: float = FPR_LIMIT) -> Value | None:
    """Return the area under the per-region overlap up to a false-positive rate, over that rate (Bergmann et al., 2021).

    PRO(t) is the mean over regions of the share of a region with scores of t or more; a false positive is a pixel in no
    region. Curve points are joined by straight lines from (0, 0), and cut at the limit.

    Args:
        overlap: by score, falling, the sum of 1 / |region| over the pixels of regions, (K,); it sums to the number of
            regions.
        negative: the number of pixels in no region, (K,).
        limit: the false-positive rate that the area ends at.
    """
    o, n = overlap.double(), negative.double()
    if not o.sum() > 0 or not n.sum() > 0:
        return None
    width, height = n / n.sum(), o / o.sum()
    right, top = width.cumsum(0), height.cumsum(0)
    left, bottom = right - width, top - height
    part = ((limit - left).clamp(min=0) / width.clamp_min(1e-300)).clamp(max=1)  # of a bin's width that counts
    area = width * part * (bottom + height * part / 2)
    error = width * part * torch.maximum(height * part / 2, height * (1 - part / 2))
    return Value(float(area.sum() / limit), float(error.sum() / limit))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b.clamp_min(1e-300), 0.0)
