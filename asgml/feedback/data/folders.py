"""Pictures of surfaces in published layouts, divided by class, by data set, or within classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from asgml.feedback.data.layouts import IMAGES, VISA_LIST, read_jsonl, read_mvtec, read_visa
from asgml.feedback.data.protocol import divide, labelled, zero_shot
from asgml.feedback.data.sample import Sample
from asgml.feedback.data.sources import Splits, finish
from callbacks.errors import UserError
from callbacks.ranges import Count, OpenShare

LayoutName = Literal["mvtec", "visa", "jsonl"]
SUFFIXES = (".csv", ".jsonl", ".json", *IMAGES)


class SurfaceFolders:
    """Pictures of surfaces in a published layout.

    Args:
        root: the folder of the data set, of `jsonl` the list itself.
        layout: how it is laid out: `mvtec` (MVTec AD), `visa` (VisA, with its list), `jsonl` (a list of objects).
        test_classes: the classes that are tested, and not trained on. Null divides every class: trained on, and tested,
            are other pictures of the same classes.
        train_classes: the classes that are trained on; null is all that are not tested.
        test_root: another data set that is tested in place of `root`, which is trained on whole.
        test_layout: how that one is laid out.
        test_share: the share of pictures that are tested where every class is divided.
        val_share: the share of the training classes' pictures that select the weights.
        shots: the number of pictures per class and label that are trained on; null is all.
        mask_threshold: the smallest value of a mask that is a defect; null is the layout's own, 1 in `visa` and 128
            elsewhere.

    Raises:
        UserError: keys that exclude each other.
    """

    def __init__(
        self,
        root: str,
        layout: LayoutName = "mvtec",
        test_classes: Sequence[str] | None = None,
        train_classes: Sequence[str] | None = None,
        test_root: str | None = None,
        test_layout: LayoutName = "mvtec",
        test_share: OpenShare = 0.4,
        val_share: OpenShare = 0.2,
        shots: Count | None = None,
        mask_threshold: Count | None = None,
    ):
        if train_classes is not None and test_classes is None and test_root is None:
            expected = "test_classes or test_root beside it: without them every class is divided"
            raise UserError("data.train_classes", str(list(train_classes)), expected, "set data.train_classes=null")
        self.root, self.layout, self.test_root, self.test_layout = root, layout, test_root, test_layout
        self.test_classes, self.train_classes = test_classes, train_classes
        self.test_share, self.val_share, self.shots = test_share, val_share, shots
        self.mask_threshold = mask_threshold

    @staticmethod
    def input_files(arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return lists, pictures and masks, those of one folder as one."""
        found = {}
        for role in ("root", "test_root"):
            given = arguments.get(role)
            if given is None:
                continue
            place = Path(given).expanduser()
            place = place.parent if place.is_file() else place
            files = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if files:
                found[f"{role}/files"] = files
        return found

    @staticmethod
    def inert_keys(arguments: Mapping[str, Any]) -> dict[str, str]:
        """Return the keys of a division that is not made, or of a second data set that is not there."""
        found = {}
        whole, second = arguments.get("test_classes") is not None, arguments.get("test_root") is not None
        if whole or second:
            found["test_share"] = "data.test_classes or data.test_root says what is tested"
        if not second:
            found["test_layout"] = "data.test_root is null"
        return found

    @property
    def present(self) -> bool:
        """Whether the data sets are where `root` and `test_root` say."""
        return all(Path(place).expanduser().exists() for place in (self.root, self.test_root) if place is not None)

    def splits(self, seed: int) -> Splits:
        """Read the folders, and return the splits."""
        samples = _read(self.root, self.layout, self.mask_threshold)
        other = None if self.test_root is None else _read(self.test_root, self.test_layout, self.mask_threshold)
        if other is None and self.test_classes is None:
            labelled = [s for s in samples if s.split == "test"]
            rest, test = divide(labelled, self.test_share, seed)
            return finish(rest, test, self.shots, self.val_share, seed)
        return _splits(samples, other, self.test_classes, self.train_classes, self.shots, self.val_share, seed)

    def labelled(self) -> tuple[list[Sample], list[str]]:
        """Return the labelled part of `test_root`, of `root` where there is none; of `test_classes` where given."""
        root, layout = (self.root, self.layout) if self.test_root is None else (self.test_root, self.test_layout)
        return labelled(_read(root, layout, self.mask_threshold), self.test_classes)


def _read(root: str, layout: LayoutName, threshold: int | None) -> list[Sample]:
    if layout == "visa":
        samples = read_visa(root, split_csv=VISA_LIST)
    else:
        samples = read_jsonl(root) if layout == "jsonl" else read_mvtec(root)
    return samples if threshold is None else [replace(s, threshold=threshold) for s in samples]


def _splits(
    samples: list[Sample],
    other: list[Sample] | None,
    test_classes: Sequence[str] | None,
    train_classes: Sequence[str] | None,
    shots: int | None,
    val_share: float,
    seed: int,
) -> Splits:
    if other is None:
        train, test = zero_shot(samples, test_classes or (), train_classes)
        return finish(train, test, shots, val_share, seed)
    train = [s for s in samples if s.split == "test" and (train_classes is None or s.class_name in train_classes)]
    seen = {s.class_name for s in train}
    test = [s for s in other if s.split == "test" and (test_classes is None or s.class_name in test_classes)]
    both = sorted(seen & {s.class_name for s in test})
    if both:
        remedy = f"leave {both[0]} out with data.train_classes or data.test_classes"
        raise UserError("data.test_root", f"{both[0]}, which is trained on", "other classes", remedy)
    return finish(train, test, shots, val_share, seed)
