"""Sample: one picture of a surface, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SurfaceSplit = Literal["train", "test"]
NORMAL = "good"  # MVTec's name for what has no defect


@dataclass(frozen=True)
class Sample:
    """Holds one picture of a surface, and what is known about it.

    Attributes:
        image: the picture's file.
        class_name: what is pictured (`candle`, `leather`): prompts name it, protocols divide by it.
        split: the part of the data set that its authors put it in; as a rule `train` has normal pictures only.
        anomalous: whether it shows a defect.
        mask: the file of the defect's mask; None for a normal picture.
        defect: the kind of defect, `good` for none and `anomaly` where it is not known.
        threshold: the smallest value of the mask that is a defect: 128 where masks are 0 and 255 with soft edges, 1
            where they number kinds of defects.
    """

    image: Path
    class_name: str
    split: SurfaceSplit
    anomalous: bool
    mask: Path | None = None
    defect: str = NORMAL
    threshold: int = 128
