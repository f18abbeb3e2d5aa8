"""Localisation pictures: a surface, the mask of its defect, and the map of every loop over the surface."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from asgml.feedback.data.dataset import SurfaceDataset
from asgml.feedback.data.files import read_picture
from asgml.feedback.train.evaluated import EvaluatedModule

LEAST_SIDE = 128  # of a panel, in pixels
GAP = 4
OPACITY = 0.55


def chosen(surfaces: SurfaceDataset, limit: int) -> list[int]:
    """Return the numbers of damaged pictures, the first of every class and kind of defect in turn, at most `limit`."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for i, sample in enumerate(surfaces.samples):
        if sample.anomalous:
            kinds.setdefault((sample.class_name, sample.defect), []).append(i)
    longest = max(map(len, kinds.values()), default=0)
    turns = [members[n] for n in range(longest) for members in kinds.values() if n < len(members)]
    return turns[:limit]


def panels(picture: NDArray[np.uint8], mask: Tensor | None, maps: Tensor) -> Image.Image:
    """Return a row of panels: the picture, its mask where there is one, and the map after every loop over the picture.

    Colours run from the least to the largest score of all loops, so that loops can be compared.

    Args:
        picture: (S, S, 3).
        mask: (S, S) bool; None where it is not known.
        maps: (loops, S, S).
    """
    surface = Image.fromarray(picture)
    low, high = float(maps.min()), float(maps.max())
    scaled = ((maps - low) / max(high - low, 1e-12) * 255).round().to(torch.uint8).cpu().numpy()
    row = [surface]
    if mask is not None:
        row.append(Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255).convert("RGB"))
    for values in scaled:
        heat = ImageOps.colorize(Image.fromarray(values), black="#1d2f6f", mid="#f2e661", white="#b3001b")
        row.append(Image.blend(surface, heat, OPACITY))
    side = max(LEAST_SIDE, surface.width)
    sheet = Image.new("RGB", (len(row) * (side + GAP) - GAP, side), "white")
    for i, panel in enumerate(row):
        kept = Image.Resampling.NEAREST if i == 1 and mask is not None else Image.Resampling.BILINEAR
        sheet.paste(panel.resize((side, side), kept), (i * (side + GAP), 0))
    return sheet


def save_pictures(module: EvaluatedModule, surfaces: SurfaceDataset, folder: Path, limit: int = 12) -> Sequence[Path]:
    """Write a PNG for some damaged pictures, with the maps of the weights at hand, and return their paths.

    Args:
        module: the module, whose device and weights are used.
        surfaces: the pictures of the test.
        folder: the folder that they are written to.
        limit: the largest number of files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    taken = set[str]()
    dtype = next(module.parameters()).dtype
    was = module.training
    module.eval()
    module.bring_clip()  # after an evaluation Lightning takes the module from its device, and leaves the CLIP there
    for i in chosen(surfaces, limit):
        sample, row = surfaces.samples[i], surfaces[i]
        with torch.no_grad():
            loops = module.model(row["image"][None].to(module.device, dtype), row["class"][None].to(module.device))
            maps, _ = module.maps(loops, surfaces.size)
        path = folder / f"{free_stem(f'{sample.class_name}_{sample.defect}_{sample.image.stem}', taken)}.png"
        panels(read_picture(sample, surfaces.size), row["mask"], maps[0]).save(path)
        written.append(path)
    module.train(was)
    return written


def free_stem(wanted: str, taken: set[str]) -> str:
    """Return the name of a file without its suffix, numbered where another one has it already, and note it as taken.

    Args:
        wanted: what it should be; whatever a file name cannot hold becomes `_`.
        taken: the names of others, which this one is added to.
    """
    # names of classes and defects in a list are anything: a slash would be a folder that is not there
    stem = re.sub(r"[^\w.-]+", "_", wanted)
    found, n = stem, 1
    while found in taken:
        n += 1
        found = f"{stem}_{n}"
    taken.add(found)
    return found
