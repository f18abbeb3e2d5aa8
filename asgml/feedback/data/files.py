"""Pictures and masks from files to arrays, with everything refused that would silently be read as something else."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from asgml.feedback.data.sample import Sample
from callbacks.errors import UserError

PICTURE_MODES = ("RGB", "L")
MASK_MODES = ("L", "1", "P")
WHY = {
    "RGBA": "it has transparency; what is behind it is not in the file",
    "LA": "it has transparency; what is behind it is not in the file",
    "PA": "it has transparency; what is behind it is not in the file",
    "I;16": "it has 16 bits; which of its values are white is not in the file",
    "I;16B": "it has 16 bits; which of its values are white is not in the file",
    "I": "it has 32 bits; which of its values are white is not in the file",
    "F": "it has 32 bits; which of its values are white is not in the file",
    "P": "it has a palette",
    "CMYK": "it has inks in place of lights",
}
DEEP = ("I;16", "I;16B", "I", "F")


def check_files(samples: Sequence[Sample]) -> None:
    """Read the headers of all pictures, and all masks, so that a wrong file stops a run before it begins.

    Raises:
        UserError: a file that is no picture, a picture that is neither RGB nor grey with 8 bits, or a mask of another
            size or type, or without a defect.
    """
    for sample in samples:
        with _opened(sample.image) as picture:
            size = picture.size
            _check_mode(picture, PICTURE_MODES, "an RGB or grey picture with 8 bits")
        if sample.mask is not None:
            with _opened(sample.mask) as mask:
                _check_mask(mask, sample, size)


def read_picture(sample: Sample, size: int) -> NDArray[np.uint8]:
    """Return the picture, (size, size, 3); grey ones have three equal channels.

    It is stretched to the square with a bicubic filter, as in AA-CLIP and WinCLIP.

    Raises:
        UserError: as in `check_files`, or a file that ends too early.
    """
    with _opened(sample.image) as picture:
        _check_mode(picture, PICTURE_MODES, "an RGB or grey picture with 8 bits")
        with _whole(sample.image):
            picture.load()
        square = picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(square)


def read_mask(sample: Sample, size: int) -> NDArray[np.bool_]:
    """Return where the defect is, (size, size); nowhere in a normal picture.

    A place is defective where at least half of its area is. A defect that is smaller than that everywhere keeps the
    place that it covers most of: no defect vanishes by scaling.

    Raises:
        UserError: as in `check_files`.
    """
    if sample.mask is None:
        return np.zeros((size, size), dtype=bool)
    with _opened(sample.image) as picture:
        original = picture.size
    with _opened(sample.mask) as mask:
        _check_mask(mask, sample, original)
        # "1" holds True and False, a palette its indices
        values = np.asarray(mask, dtype=np.int32) * (255 if mask.mode == "1" else 1)
    defective = values >= sample.threshold
    share = np.asarray(
        Image.fromarray(defective.astype(np.float32)).resize((size, size), Image.Resampling.BOX), dtype=np.float32
    )
    scaled = share >= 0.5
    if not scaled.any():
        scaled = share == share.max()
    return scaled


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(
            str(path), f"no picture ({error})", "a PNG, JPEG, BMP or TIFF file", "replace the file"
        ) from error


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn what PIL says of damaged pixels into an error of the user's."""
    try:
        yield
    except (OSError, SyntaxError) as error:
        raise UserError(str(path), f"a damaged picture ({error})", "a whole file", "copy it anew") from error


def _check_mode(picture: Image.Image, modes: Sequence[str], expected: str) -> None:
    transparent = "transparency" in picture.info
    if picture.mode in modes and not transparent:
        return
    name = str(getattr(picture, "filename", "picture"))
    mode = "RGBA" if transparent else picture.mode
    found = f"mode {picture.mode}: {WHY.get(mode, 'it is of another type')}"
    if mode in DEEP:  # the largest value becomes white
        change = "import numpy as np; a = np.asarray(i, float); i = Image.fromarray((a * (255 / a.max())).astype('B'))"
    else:
        change = f"i = i.convert('{modes[0]}'); i.info.clear()"  # where the transparent colour of a PNG is kept
    program = f"from PIL import Image; i = Image.open({name!r}); {change}; i.save({name!r})"
    raise UserError(name, found, expected, f"convert it once: python -c {shlex.quote(program)}")


def _check_mask(mask: Image.Image, sample: Sample, size: tuple[int, int]) -> None:
    _check_mode(mask, MASK_MODES, "a mask of one channel with 8 bits")
    if mask.size != size:
        found = f"{mask.size[0]} × {mask.size[1]} pixels"
        expected = f"{size[0]} × {size[1]}, those of {sample.image}"
        raise UserError(str(sample.mask), found, expected, "make the mask anew from the full picture")
    assert sample.mask is not None
    with _whole(sample.mask):
        most: Any = mask.getextrema()[1]  # 255 for True
    if most < sample.threshold:
        found = f"nothing of {sample.threshold} or more (its largest value is {most})"
        remedy = "correct the mask, or list the picture as normal"
        if most:
            remedy += "; where masks number kinds of defects: +data.mask_threshold=1"
        raise UserError(str(sample.mask), found, "a mask that shows the defect", remedy)
