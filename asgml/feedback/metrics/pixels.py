"""PixelHistogram: what pixel metrics need of any number of maps, in memory that does not grow with them."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from asgml.feedback.metrics.curves import Value, aupro, auroc, average_precision, f1_max
from callbacks.errors import UserError
from callbacks.ranges import Count, Finite
from callbacks.step.ranks import sum_over_ranks

EIGHT = np.ones((3, 3), dtype=int)  # pixels of a region touch by an edge or a corner, as in MVTec AD's evaluation


class PixelHistogram:
    """Counts the pixels of maps by score, and computes pixel AUROC, AUPRO, AP and F1-max of them.

    Scores are told apart in steps of `(high - low) / bins`; equal ones count as ties exactly. Every metric comes with
    the largest error that these steps can have made in it, which is a sum over the bins that hold both kinds of pixels:
    at 65 536 bins it is below 1e-4 unless most scores lie in a few hundred of them. A monotone map of the scores
    changes no metric, and spreads them.

    Args:
        low: the lowest score that can be.
        high: the highest score that can be.
        bins: the number of steps. Memory is 24 bytes each.

    Raises:
        UserError: `low` is not below `high`.
    """

    def __init__(self, low: Finite = 0.0, high: Finite = 1.0, bins: Count = 65536):
        if not low < high:
            raise UserError("PixelHistogram", f"low {low}, high {high}", "low below high", "write low: 0.0, high: 1.0")
        self.low, self.high, self.bins = low, high, bins
        self.positive = torch.zeros(bins, dtype=torch.int64)
        self.negative = torch.zeros(bins, dtype=torch.int64)
        self.overlap = torch.zeros(bins, dtype=torch.float64)  # of regions: the sum of 1 / |region|

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Count the pixels of some images.

        Args:
            maps: the scores, (B, H, W).
            masks: where the defects are, (B, H, W) bool.

        Raises:
            UserError: scores that are not finite, or outside of `low` to `high`.
        """
        scores, masks = maps.detach().double().cpu(), masks.bool().cpu()
        if scores.numel() == 0:
            return
        least, most = float(scores.min()), float(scores.max())
        if not (self.low <= least and most <= self.high):
            found = f"scores from {least:g} to {most:g}"
            remedy = f"write low: {least:g} and high: {most:g}, or look for NaN in the maps"
            raise UserError("PixelHistogram", found, f"from {self.low:g} to {self.high:g}", remedy)
        where = ((scores - self.low) * (self.bins / (self.high - self.low))).long().clamp_(max=self.bins - 1)
        self.positive += torch.bincount(where[masks], minlength=self.bins)
        self.negative += torch.bincount(where[~masks], minlength=self.bins)
        weights = torch.zeros_like(scores)
        for i in masks.flatten(1).any(1).nonzero().flatten().tolist():
            regions, _ = ndimage.label(masks[i].numpy(), EIGHT)
            sizes = np.bincount(regions.ravel())
            sizes[0] = 0
            share = np.divide(1.0, sizes, out=np.zeros(len(sizes)), where=sizes > 0)
            weights[i] = torch.from_numpy(share[regions])
        self.overlap += torch.bincount(where[masks], weights[masks], minlength=self.bins)

    def over_ranks(self) -> PixelHistogram:
        """Return the histogram of all ranks' pixels together; on one rank, itself."""
        total = PixelHistogram(self.low, self.high, self.bins)
        total.positive, total.negative = sum_over_ranks(self.positive), sum_over_ranks(self.negative)
        total.overlap = sum_over_ranks(self.overlap)
        return total

    def compute(self) -> dict[str, Value | None]:
        """Return `pixel_auroc`, `aupro`, `pixel_ap` and `pixel_f1_max`; None where one kind of pixels is missing."""
        positive, negative = self.positive.flip(0), self.negative.flip(0)
        return {
            "pixel_auroc": auroc(positive, negative),
            "aupro": aupro(self.overlap.flip(0), negative),
            "pixel_ap": average_precision(positive, negative),
            "pixel_f1_max": f1_max(positive, negative),
        }


def auroc_within(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the AUROC of each image's own pixels, (B,) float64, exactly; NaN where it has one kind of pixels alone.

    What shifts all scores of an image together changes the AUROC over the pixels of a class, and not this one.

    Args:
        maps: the scores, (B, H, W).
        masks: where the defects are, (B, H, W) bool.
    """
    found = torch.full((len(maps),), torch.nan, dtype=torch.float64)
    for i, (scores, mask) in enumerate(zip(maps.detach().double().cpu(), masks.bool().cpu(), strict=True)):
        if mask.any() and not mask.all():
            positive, negative = _by_score(scores.flatten(), mask.flatten())
            value = auroc(positive, negative)
            assert value is not None
            found[i] = value.value
    return found


def _by_score(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers of positives and of negatives at every distinct score, falling."""
    distinct, place = torch.unique(scores, return_inverse=True)
    counts = [torch.bincount(place[kind], minlength=len(distinct)).flip(0) for kind in (positive, ~positive)]
    return counts[0], counts[1]


def image_metrics(scores: Tensor, labels: Tensor) -> dict[str, Value | None]:
    """Return `image_auroc`, `image_ap` and `image_f1_max` of scores (n,) and labels (n,), without any binning."""
    positive, negative = _by_score(scores.detach().double().cpu(), labels.bool().cpu())
    found = {"image_auroc": auroc(positive, negative), "image_ap": average_precision(positive, negative)}
    found["image_f1_max"] = f1_max(positive, negative)
    return {name: None if v is None else Value(v.value, 0.0) for name, v in found.items()}  # ties are true ties
