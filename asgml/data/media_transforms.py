"""Stored media rows to encoder input, at batch time."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate

from asgml.data.counter_rng import uniform

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ATTEMPTS = 10  # of torchvision's RandomResizedCrop


class SpectrogramTransform:
    """Passes stored spectrograms (b, 1, F, T) on as they are, float32. No randomness."""

    def __call__(self, raw: np.ndarray, keys: np.ndarray, train: bool) -> torch.Tensor:
        return torch.from_numpy(np.require(raw, np.float32, ["C", "W"]))


class ImageTransform:
    """Turns uint8 frames (b, T, H, W, 3) into float32, standardised with ImageNet's statistics.

    The result is (b, 3, size, size), or (b, T, 3, size, size) where `frames` is more than 1. Training takes a
    RandomResizedCrop and a horizontal flip with torchvision's distributions, each frame on its own as in the published
    protocols; evaluation takes Resize((size, size)). Resampling is antialiased bilinear on uint8, as on PIL images.
    The crop of a frame is a function of its sample's key alone, so it is the same in any batch.

    Args:
        size: the side of the square output in pixels.
        frames: the number of frames T of a sample.
        scale: the range of the crop's share of the area.
        flip: the probability of the horizontal flip.
    """

    def __init__(self, size: int, frames: int = 1, scale: tuple[float, float] = (0.08, 1.0), flip: float = 0.5):
        self.size, self.frames, self.scale, self.flip = size, frames, scale, flip
        self._shift = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
        self._gain = 1 / (255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self._shift = self._shift / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)

    def __call__(self, raw: np.ndarray, keys: np.ndarray, train: bool) -> torch.Tensor:
        b, t, height, width, _ = raw.shape
        flat = torch.from_numpy(np.require(raw, np.uint8, ["C", "W"])).view(b * t, height, width, 3)
        flat = flat.permute(0, 3, 1, 2)  # a channels-last view, the layout of the fast uint8 kernel
        if train:
            flat = self._augment(flat, keys, b, t)
        elif (height, width) != (self.size, self.size):
            flat = interpolate(flat, (self.size, self.size), mode="bilinear", antialias=True)
        out = flat.to(torch.float32).mul(self._gain).sub_(self._shift).contiguous()
        return out if self.frames == 1 else out.view(b, t, 3, self.size, self.size)

    def _augment(self, flat: torch.Tensor, keys: np.ndarray, b: int, t: int) -> torch.Tensor:
        height, width = flat.shape[-2:]
        per_frame = [crop_boxes(keys, frame, height, width, self.scale) for frame in range(t)]
        boxes = np.stack(per_frame, axis=1).reshape(b * t, 4)
        flips = np.stack([uniform(keys, f"flip {frame}") < self.flip for frame in range(t)], axis=1).reshape(b * t)
        out = torch.empty((b * t, 3, self.size, self.size), dtype=torch.uint8)
        for i, (top, left, h, w) in enumerate(boxes.tolist()):
            crop = flat[i : i + 1, :, top : top + h, left : left + w]
            out[i] = interpolate(crop, (self.size, self.size), mode="bilinear", antialias=True)[0]
        turned = torch.from_numpy(flips)
        out[turned] = out[turned].flip(-1)
        return out


def crop_boxes(keys: np.ndarray, frame: int, height: int, width: int, scale: tuple[float, float]) -> np.ndarray:
    """Draw torchvision's RandomResizedCrop boxes, (b, 4) int64: top, left, height, width.

    Of ten draws of area share (uniform in `scale`) and aspect ratio (log-uniform in 3/4..4/3) the first that fits
    inside the image is taken; if none fits, the largest centred box of a ratio within the range.
    """
    shares = np.stack([uniform(keys, f"area {frame} {i}") for i in range(_ATTEMPTS)], axis=1)
    turns = np.stack([uniform(keys, f"ratio {frame} {i}") for i in range(_ATTEMPTS)], axis=1)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * shares)
    limit = np.log(4 / 3)
    ratio = np.exp(limit * (2 * turns - 1))
    w, h = np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.argmax(axis=1)
    rows = np.arange(len(keys))
    w, h, found = w[rows, first], h[rows, first], fits.any(axis=1)
    top = np.floor(uniform(keys, f"top {frame}") * (height - h + 1)).astype(np.int64)
    left = np.floor(uniform(keys, f"left {frame}") * (width - w + 1)).astype(np.int64)
    if not found.all():
        fh, fw = height, width
        if width / height < 3 / 4:
            fh = round(width / (3 / 4))
        elif width / height > 4 / 3:
            fw = round(height * (4 / 3))
        box = np.array([(height - fh) // 2, (width - fw) // 2, fh, fw])
        return np.where(found[:, None], np.stack([top, left, h, w], axis=1), box)
    return np.stack([top, left, h, w], axis=1)
