"""A data set of textured surfaces with scratches, spots and missing parts, written in MVTec AD's layout."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from asgml.data.ranges import Pixels
from asgml.feedback.data.sample import NORMAL
from asgml.feedback.data.textures import TEXTURES, Floats, texture
from callbacks.errors import UserError, quoted
from callbacks.files.folders import make_folder
from callbacks.files.sealed import read_json
from callbacks.ranges import Seed, Share, Steps

Mask = NDArray[np.bool_]
MANIFEST = "surfaces.json"


def _scratch(surface: Floats, difficulty: float, rng: Generator) -> tuple[Floats, Mask]:
    """Draw a bent line, lighter or darker than what it crosses."""
    size = surface.shape[0]
    start, angle = rng.uniform(0.15, 0.85, 2) * size, rng.uniform(0, 2 * np.pi)
    length = rng.uniform(0.35, 0.7) * (1 - 0.5 * difficulty) * size
    end = start + length * np.array([np.sin(angle), np.cos(angle)])
    bend = (start + end) / 2 + rng.normal(0, 0.12 * length, 2)
    t = np.linspace(0, 1, 4 * size)[:, None]
    path = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    inside = path[((path >= 0) & (path <= size - 1)).all(1)].round().astype(int)
    line = np.ones((size, size), dtype=bool)
    line[inside[:, 0], inside[:, 1]] = False
    width = rng.uniform(0.006, 0.014) * size
    mask = ndimage.distance_transform_edt(line) <= max(0.5, width * (1 - 0.5 * difficulty))
    target = 1.0 if rng.random() < 0.5 else 0.0
    return _blend(surface, mask, np.full(3, target), _contrast(difficulty)), mask


def _spot(surface: Floats, difficulty: float, rng: Generator) -> tuple[Floats, Mask]:
    """Stain a blob with a dark or light colour."""
    mask = _blob(surface.shape[0], rng.uniform(0.05, 0.1) * (1 - 0.5 * difficulty), rng)
    colour = np.clip(rng.choice([0.1, 0.9]) + rng.normal(0, 0.06, 3), 0, 1)
    return _blend(surface, mask, colour, _contrast(difficulty)), mask


def _missing(surface: Floats, difficulty: float, rng: Generator) -> tuple[Floats, Mask]:
    """Take the relief off a blob: what is left is its mean colour, darker where that is easy to see."""
    mask = _blob(surface.shape[0], rng.uniform(0.08, 0.15) * (1 - 0.4 * difficulty), rng)
    bare = surface[mask].mean(0) * (1 - 0.5 * (1 - difficulty))
    return _blend(surface, mask, bare, 1.0), mask


#: by name: the function from a surface, a difficulty and draws to the surface with a defect and its mask
DEFECTS: dict[str, Callable[[Floats, float, Generator], tuple[Floats, Mask]]] = {
    "scratch": _scratch,
    "spot": _spot,
    "missing": _missing,
}


def _contrast(difficulty: float) -> float:
    return 0.85 - 0.7 * difficulty


def _blend(surface: Floats, mask: Mask, colour: NDArray[Any], weight: float) -> Floats:
    changed = surface.copy()
    changed[mask] = (1 - weight) * surface[mask] + weight * colour
    return changed


def _blob(size: int, radius: float, rng: Generator) -> Mask:
    """Return a blob of about this radius (of the side), somewhere; the border may cut it."""
    rows, columns = np.mgrid[0:size, 0:size]
    centre = rng.uniform(0.1, 0.9, 2) * size
    dy, dx = rows - centre[0], columns - centre[1]
    angle = np.arctan2(dy, dx)
    waves = sum(rng.normal(0, 0.25 / k) * np.sin(k * angle + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3))
    mask = np.hypot(dy, dx) <= max(1.0, radius * size) * np.clip(1 + waves, 0.4, 1.6)
    mask[tuple(np.clip(centre.astype(int), 0, size - 1))] = True
    return mask


def surface_with_defect(
    class_name: str, defect: str, size: int, difficulty: float, key: Sequence[int]
) -> tuple[Floats, Mask]:
    """Return a surface (size, size, 3) in [0, 1] and the mask of its defect (size, size), nothing else changed.

    Args:
        class_name: the texture, a key of `TEXTURES`.
        defect: the kind of defect, a key of `DEFECTS`, or `good`.
        size: the side in pixels.
        difficulty: from 0, which is seen at once, to 1, which is hardly seen: contrast, size and width shrink.
        key: the numbers that seed the draws; the texture's draws do not depend on the defect.
    """
    surface = texture(class_name, size, np.random.default_rng([*key, 0]))
    if defect == NORMAL:
        return surface, np.zeros((size, size), dtype=bool)
    return DEFECTS[defect](surface, difficulty, np.random.default_rng([*key, 1]))


def write_surfaces(
    root: str | Path,
    classes: Sequence[str] = tuple(TEXTURES),
    size: Pixels = 128,
    train: Steps = 20,
    good: Steps = 10,
    per_defect: Steps = 5,
    difficulty: Share = 0.5,
    seed: Seed = 0,
) -> Path:
    """Write the data set in MVTec AD's layout and return its folder; an equal one that is there already is kept.

    Every picture depends on the seed, its class, its place and its number alone: more of them change none.

    Args:
        root: the folder, to be made.
        classes: the textures, of wood, granite, brushed, weave, tiles and leather.
        size: the side of a picture in pixels.
        train: the number of normal pictures per class in `train/good`.
        good: the number of normal pictures per class in `test/good`.
        per_defect: the number of pictures per class and kind of defect (scratch, spot, missing).
        difficulty: from 0 (seen at once) to 1 (hardly seen).
        seed: the seed.

    Raises:
        UserError: an unknown texture, a number out of its range, or a folder with something else in it.
    """
    if not classes:
        raise UserError("surfaces: classes", "none", ", ".join(TEXTURES), "write classes: [wood, granite]")
    for name in classes:
        if name not in TEXTURES:
            raise UserError("surfaces: classes", name, ", ".join(TEXTURES), "write classes: [wood, granite]")
    if not 0 <= difficulty <= 1:
        raise UserError("surfaces: difficulty", str(difficulty), "from 0 to 1", "write difficulty: 0.5")
    counts = {"size": (size, 16), "train": (train, 0), "good": (good, 1), "per_defect": (per_defect, 1)}
    for key, (value, least) in counts.items():
        if value < least:
            raise UserError(f"surfaces: {key}", str(value), f"{least} or more", f"write {key}: {max(least, 16)}")
    target = Path(root).expanduser()
    made_of = {
        "version": 1,
        "classes": list(classes),
        "size": size,
        "train": train,
        "good": good,
        "per_defect": per_defect,
        "difficulty": difficulty,
        "seed": seed,
    }
    if target.exists():
        if _made_of(target) == made_of:
            return target
        found = "surfaces of other settings" if (target / MANIFEST).is_file() else "something else"
        raise UserError(str(target), found, "no folder, or the same surfaces", "remove it, or name another folder")
    make_folder(target.parent, f"folder of surfaces {target.parent}", "set paths.data=data, or another folder")
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    for name in classes:
        _write_class(part / name, name, size, {"train": train, "test": good}, per_defect, difficulty, seed)
    (part / MANIFEST).write_text(json.dumps(made_of), encoding="utf-8")
    try:
        part.replace(target)
    except OSError:  # another process may have been faster: a second rank, a run beside this one
        if _made_of(target) != made_of:
            raise
        shutil.rmtree(part)
    return target


def _made_of(folder: Path) -> Any:
    """Return what the surfaces of a folder are made of, None where it has none. Raises UserError for damage."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    remedy = f"rm -r {quoted(folder)}, and they are rendered again"
    return read_json(manifest, "what these surfaces are made of, as it was written", remedy)


def _write_class(
    folder: Path, name: str, size: int, normal: dict[str, int], per_defect: int, difficulty: float, seed: int
) -> None:
    texture_number = list(TEXTURES).index(name)
    places = [(split, NORMAL, count) for split, count in normal.items()]
    places += [("test", defect, per_defect) for defect in DEFECTS]
    for place, (split, defect, count) in enumerate(places):
        for i in range(count):
            surface, mask = surface_with_defect(name, defect, size, difficulty, (seed, texture_number, place, i))
            pixels = (255 * surface).round().astype(np.uint8)
            _save(pixels, folder / split / defect / f"{i:03d}.png")
            if defect != NORMAL:
                _save(255 * mask.astype(np.uint8), folder / "ground_truth" / defect / f"{i:03d}_mask.png")


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
