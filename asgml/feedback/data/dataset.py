"""SurfaceDataset: samples as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from asgml.data.ranges import Pixels
from asgml.feedback.data.files import check_files, read_mask, read_picture
from asgml.feedback.data.sample import Sample
from callbacks.errors import UserError
from callbacks.ranges import Finite, Positive

#: of the pictures that CLIP was trained on (Radford et al., ICML 2021)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class SurfaceDataset(Dataset[dict[str, Any]]):
    """Reads samples to tensors: `image` (3, S, S) normalised as CLIP's, `mask` (S, S) bool, `label` and `class` int64.

    All headers and masks are read at the start; pixels of pictures are read when they are asked for.

    Args:
        samples: the samples.
        size: the side S of the square that pictures are stretched to.
        classes: the names of the classes, which `class` numbers; those of the samples by default, in their order.
        mean: what is taken from each channel, of values in [0, 1].
        std: what each channel is then divided by.

    Raises:
        UserError: no sample, a class that is not in the list, or a file that is not as it should be.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: Pixels,
        classes: Sequence[str] | None = None,
        mean: Sequence[Finite] = MEAN,
        std: Sequence[Positive] = STD,
    ):
        if not samples:
            raise UserError("data", "no sample", "at least one", "look at the classes and the split that were chosen")
        self.samples, self.size = list(samples), size
        self.classes = list(classes or dict.fromkeys(s.class_name for s in samples))
        strange = [s.class_name for s in samples if s.class_name not in self.classes]
        if strange:
            raise UserError("classes", strange[0], ", ".join(self.classes), f"add {strange[0]} to the classes")
        self._mean = torch.tensor(mean).view(3, 1, 1)
        self._std = torch.tensor(std).view(3, 1, 1)
        check_files(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        pixels = torch.from_numpy(np.array(read_picture(sample, self.size))).permute(2, 0, 1).float() / 255
        return {
            "image": (pixels - self._mean) / self._std,
            "mask": torch.from_numpy(read_mask(sample, self.size)),
            "label": torch.tensor(int(sample.anomalous)),
            "class": torch.tensor(self.classes.index(sample.class_name)),
            "index": torch.tensor(index),
        }
