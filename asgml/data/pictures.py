"""A picture as its viewer shows it, in eight bits: upright, and no depth clipped away."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

WIDE = 65535 / 255  # one step of eight bits, in steps of sixteen


def shown(image: Image.Image) -> Image.Image:
    """Return a picture in RGB, turned as its EXIF orientation says.

    Sixteen bits are scaled to eight; Pillow's own conversion would clip them, so that all but the darkest is white.

    Raises:
        ValueError: values without a range that is known (32-bit integers, floats), or sixteen bits that use so little
            of their range that nothing is left in eight.
    """
    upright = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # PNG has sixteen bits at most
        return _of_sixteen_bits(upright).convert("RGB")
    if image.mode in ("I", "F"):
        told = {"I": "32-bit integers", "F": "floats"}[image.mode]
        raise ValueError(f"a picture of {told}, whose range is not known: save it with 8 or 16 bits")
    return upright.convert("RGB")


def _of_sixteen_bits(image: Image.Image) -> Image.Image:
    wide = np.asarray(image).astype(np.int64)
    eight = np.rint(wide / WIDE).astype(np.uint8)
    if eight.min() == eight.max() and wide.min() != wide.max():
        found = f"16 bits, of which values {wide.min()} to {wide.max()} of 65535 are used: one grey in 8 bits"
        raise ValueError(f"{found}; scale it before saving")
    return Image.fromarray(eight)
