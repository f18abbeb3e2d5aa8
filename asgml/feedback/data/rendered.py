"""Surfaces that are rendered, tested on classes that were never trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from asgml.data.ranges import Pixels
from asgml.feedback.data.generator import MANIFEST, write_surfaces
from asgml.feedback.data.layouts import read_mvtec
from asgml.feedback.data.protocol import labelled, zero_shot
from asgml.feedback.data.sample import Sample
from asgml.feedback.data.sources import Splits, finish
from asgml.feedback.data.textures import TEXTURES
from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Count, OpenShare, Seed, Share


class RenderedSurfaces:
    """Textured surfaces with scratches, spots and missing parts, rendered once; tested on classes never trained on.

    They are written to a folder of their own below `root`, named after what they are made of, and kept.

    Args:
        root: the folder below which they are written.
        classes: the textures: wood, granite, brushed, weave, tiles, leather.
        test_classes: those that are tested; all others are trained on.
        size: the side of a picture in pixels.
        good: the number of normal pictures per class.
        per_defect: the number of pictures per class and kind of defect.
        difficulty: from 0, seen at once, to 1, hardly seen.
        data_seed: the seed of the pictures.
        val_share: the share of the training classes' pictures that select the weights.
        shots: the number of pictures per class and label that are trained on; null is all.
    """

    def __init__(
        self,
        root: str,
        classes: Annotated[Sequence[str], NOT_EMPTY] = tuple(TEXTURES),
        test_classes: Annotated[Sequence[str], NOT_EMPTY] = ("tiles", "leather"),
        size: Pixels = 64,
        good: Count = 16,
        per_defect: Count = 6,
        difficulty: Share = 0.3,
        data_seed: Seed = 0,
        val_share: OpenShare = 0.25,
        shots: Count | None = None,
    ):
        self.root, self.classes, self.test_classes = Path(root).expanduser(), list(classes), list(test_classes)
        self.size, self.good, self.per_defect = size, good, per_defect
        self.difficulty, self.data_seed = difficulty, data_seed
        self.val_share, self.shots = val_share, shots
        strange = [name for name in (*classes, *test_classes) if name not in TEXTURES]
        if strange:
            raise UserError("data.classes", strange[0], ", ".join(TEXTURES), "set data.classes=[wood,granite,tiles]")

    def splits(self, seed: int) -> Splits:
        """Render what is not there yet, and return the splits."""
        return finish(*zero_shot(self._rendered(), self.test_classes), self.shots, self.val_share, seed)

    def labelled(self) -> tuple[list[Sample], list[str]]:
        """Render what is not there yet, and return all pictures of `test_classes`."""
        return labelled(self._rendered(), self.test_classes)

    @property
    def present(self) -> bool:
        """Whether nothing has to be rendered."""
        return (self._folder / MANIFEST).is_file()

    @property
    def _folder(self) -> Path:
        made_of = [self.classes, self.size, self.good, self.per_defect, self.difficulty, self.data_seed]
        return self.root / hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]

    def _rendered(self) -> list[Sample]:
        folder = write_surfaces(
            self._folder, self.classes, self.size, 0, self.good, self.per_defect, self.difficulty, self.data_seed
        )
        return read_mvtec(folder)
