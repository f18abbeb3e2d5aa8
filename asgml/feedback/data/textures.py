"""Textured surfaces without defects, from noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]


def _noise(rng: Generator, size: int, sigma: float | tuple[float, float]) -> Floats:
    """Return Gaussian noise (size, size), blurred over sigma pixels, with mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(rng.standard_normal((size, size)), sigma, mode="wrap")
    return (field - field.mean()) / field.std()


def _grid(size: int) -> tuple[Floats, Floats]:
    rows, columns = np.mgrid[0:size, 0:size] / size
    return rows, columns


def _wood(rng: Generator, size: int) -> Floats:
    rows, _ = _grid(size)
    bent = rows + 0.02 * _noise(rng, size, (size / 16, size / 4))
    return 0.8 * np.sin(2 * np.pi * 9 * bent) + 0.4 * _noise(rng, size, (0.7, size / 12))


def _granite(rng: Generator, size: int) -> Floats:
    return 0.6 * _noise(rng, size, 0.6) + 0.7 * _noise(rng, size, size / 40) + 0.3 * _noise(rng, size, size / 10)


def _brushed(rng: Generator, size: int) -> Floats:
    return 0.7 * _noise(rng, size, (0.5, size / 8)) + 0.2 * _noise(rng, size, 0.5)


def _weave(rng: Generator, size: int) -> Floats:
    rows, columns = _grid(size)
    shift = rng.uniform(0, 1, 2)
    bent = 0.004 * _noise(rng, size, size / 12)
    warp = np.sin(2 * np.pi * (14 * (columns + bent) + shift[0]))
    weft = np.sin(2 * np.pi * (14 * (rows + bent) + shift[1]))
    return 0.8 * warp * weft + 0.3 * _noise(rng, size, 0.7)


def _tiles(rng: Generator, size: int) -> Floats:
    rows, columns = _grid(size)
    shift = rng.uniform(0, 1, 2)
    lines = [np.abs((5 * axis + s) % 1 - 0.5) < 0.06 for axis, s in ((rows, shift[0]), (columns, shift[1]))]
    return -1.4 * (lines[0] | lines[1]) + 0.4 * _noise(rng, size, 0.8) + 0.3 * _noise(rng, size, size / 12)


def _leather(rng: Generator, size: int) -> Floats:
    folds = np.abs(_noise(rng, size, size / 40))
    return 1.2 * np.minimum(folds, 1.0) - 0.6 + 0.25 * _noise(rng, size, 0.6)


#: by class: the grey relief, and the colour that it is laid on
TEXTURES: dict[str, tuple[Callable[[Generator, int], Floats], tuple[float, float, float]]] = {
    "wood": (_wood, (0.62, 0.45, 0.30)),
    "granite": (_granite, (0.52, 0.50, 0.50)),
    "brushed": (_brushed, (0.60, 0.62, 0.66)),
    "weave": (_weave, (0.44, 0.50, 0.60)),
    "tiles": (_tiles, (0.66, 0.62, 0.56)),
    "leather": (_leather, (0.40, 0.28, 0.22)),
}


def texture(name: str, size: int, rng: Generator) -> Floats:
    """Return a surface (size, size, 3) with values in [0, 1], under uneven light."""
    relief, colour = TEXTURES[name]
    rows, columns = _grid(size)
    tilt = rng.uniform(-0.06, 0.06, 2)
    light = 1.0 + tilt[0] * (rows - 0.5) + tilt[1] * (columns - 0.5) + rng.uniform(-0.04, 0.04)
    surface = (np.array(colour) + 0.09 * relief(rng, size)[..., None]) * light[..., None]
    return np.clip(surface, 0.0, 1.0)
