"""Pictures that are named on a command line, of which nothing but the class is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asgml.feedback.data.layouts import IMAGES, MASKS, pictures_in
from asgml.feedback.data.sample import Sample
from callbacks.errors import UserError


def named(places: Sequence[str], class_name: str) -> list[Sample]:
    """Return pictures without labels, in the order of their places, of a folder by name.

    Args:
        places: pictures, and folders of pictures, whose own folders are not entered.
        class_name: what is pictured.

    Raises:
        UserError: no such place, or a folder without a picture.
    """
    found: list[Path] = []
    for place in places:
        path = Path(place).expanduser()
        if not path.exists():
            remedy = "correct the path, which starts from this folder"
            raise UserError(f"--data {place}", "no such file or folder", "a picture, or a folder of pictures", remedy)
        here = pictures_in(path) if path.is_dir() else [path]
        if not here:
            folders = (p for p in sorted(path.rglob("*")) if p.is_dir() and p.parent.name != MASKS)
            inner = next((p for p in folders if pictures_in(p)), None)
            remedy = "name a folder that has some" if inner is None else f"name the folder itself: --data {inner}"
            raise UserError(f"--data {place}", "no picture in it", f"files in {', '.join(IMAGES)}", remedy)
        found += here
    return [Sample(path, class_name, "test", False) for path in found]
