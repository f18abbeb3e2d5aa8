"""AnomalyMetrics: every metric of every class after every feedback loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asgml.feedback.metrics.curves import Value
from asgml.feedback.metrics.pixels import PixelHistogram, auroc_within, image_metrics
from callbacks.errors import UserError
from callbacks.ranges import Count, Finite
from callbacks.step.ranks import gather_rows

#: of one class after one loop; None where it has one kind of pixels or images only
Scores = dict[str, Value | None]
PIXELS = ("pixel_auroc", "aupro", "pixel_ap", "pixel_f1_max")
IMAGES = ("image_auroc", "image_ap", "image_f1_max")
WITHIN = "pixel_auroc_within"  # the mean over damaged images of the AUROC of their own pixels
NAMES = (*PIXELS, WITHIN, *IMAGES)
MEAN = "mean"


class AnomalyMetrics:
    """Collects maps and scores by class and loop; a class's metrics are of its images alone, as published tables are.

    Kept are three histograms per class and loop, and two numbers per image and loop.

    Args:
        classes: the names of the classes.
        loops: the number of feedback loops that maps are made after.
        low: the lowest score of a pixel that can be.
        high: the highest one.
        bins: the number of steps that pixels' scores are told apart in.

    Raises:
        UserError: no class, or a class named `mean`.
    """

    def __init__(
        self, classes: Sequence[str], loops: Count = 1, low: Finite = 0.0, high: Finite = 1.0, bins: Count = 65536
    ):
        if not classes or MEAN in classes:
            found = "no class" if MEAN not in classes else f"a class named {MEAN}"
            expected = "at least one class; mean is the row over all classes"
            remedy = "rename the class" if MEAN in classes else "name a class"
            raise UserError("AnomalyMetrics", found, expected, remedy)
        self.classes, self.loops = list(classes), loops
        self.pixels = [[PixelHistogram(low, high, bins) for _ in range(loops)] for _ in classes]
        self._images: list[Tensor] = []  # rows of class, label, per loop a score, per loop the AUROC of its own pixels

    def update(self, maps: Tensor, masks: Tensor, scores: Tensor, labels: Tensor, classes: Tensor) -> None:
        """Take in a batch.

        Args:
            maps: scores of pixels after every loop, (B, loops, H, W).
            masks: where the defects are, (B, H, W) bool.
            scores: scores of images after every loop, (B, loops).
            labels: whether an image shows a defect, (B,).
            classes: the number of its class, (B,) int64.
        """
        for c in classes.unique().tolist():
            rows = classes == c
            for loop in range(self.loops):
                self.pixels[c][loop].update(maps[rows, loop], masks[rows])
        within = [auroc_within(maps[:, loop], masks) for loop in range(self.loops)]
        columns = [classes.unsqueeze(1), labels.unsqueeze(1), scores.detach(), torch.stack(within, 1)]
        self._images.append(torch.cat([c.double().cpu() for c in columns], 1))

    def compute(self) -> list[dict[str, Scores]]:
        """Return, per loop, the metrics of every class, and of `mean`, their mean over the classes that have them.

        The error of a mean is the mean of the errors. All ranks' images count.
        """
        own = torch.cat(self._images) if self._images else torch.zeros(0, 2 + 2 * self.loops, dtype=torch.float64)
        images = torch.cat(gather_rows(own))
        found: list[dict[str, Scores]] = []
        for loop in range(self.loops):
            rows: dict[str, Scores] = {}
            for c, name in enumerate(self.classes):
                here = images[images[:, 0] == c]
                rows[name] = {
                    **self.pixels[c][loop].over_ranks().compute(),
                    WITHIN: _known(here[:, 2 + self.loops + loop]),
                    **image_metrics(here[:, 2 + loop], here[:, 1]),
                }
            found.append({**rows, MEAN: {metric: _mean([row[metric] for row in rows.values()]) for metric in NAMES}})
        return found


def _known(values: Tensor) -> Value | None:
    there = values[~values.isnan()]
    return Value(float(there.mean()), 0.0) if len(there) else None


def _mean(values: Sequence[Value | None]) -> Value | None:
    there = [v for v in values if v is not None]
    if not there:
        return None
    return Value(sum(v.value for v in there) / len(there), sum(v.error for v in there) / len(there))
