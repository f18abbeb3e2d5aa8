"""The published layouts of surface data sets, read to lists of samples: MVTec AD, VisA, and a list in JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from asgml.feedback.data.sample import NORMAL, Sample, SurfaceSplit
from callbacks.errors import UserError, no_folder, quoted
from callbacks.ranges import Count

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MASKS = "ground_truth"  # of MVTec AD: the folder of the masks
SPLITS: tuple[SurfaceSplit, ...] = get_args(SurfaceSplit)
VISA_LIST = "split_csv/1cls.csv"
VISA_COLUMNS = ("object", "split", "label", "image", "mask")
VISA_LABELS = {"normal": False, "anomaly": True}
JSON_KEYS = ("image_path", "label", "class_name", "mask_path")
JSON_LABELS = {0: False, 1: True, "normal": False, "anomaly": True, "anomalous": True}


def read_mvtec(root: str | Path, classes: Sequence[str] | None = None) -> list[Sample]:
    """Return the samples of a folder in the layout of MVTec AD (Bergmann et al., CVPR 2019).

    `<class>/{train,test}/<defect>/NNN.png`, where `good` is no defect, with a mask for every other picture,
    `<class>/ground_truth/<defect>/NNN_mask.png`. A folder that has `test` itself is one class, named after it.

    Args:
        root: the folder.
        classes: the classes to read, all by default.

    Raises:
        UserError: no such folder or class, a class or defect without pictures, or a picture without its mask.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        remedy = "unpack the data set there, or give the folder that holds its classes"
        raise UserError(str(folder), no_folder(folder), "a folder in MVTec AD's layout", remedy)
    if (folder / "test").is_dir():
        places = {folder.resolve().name: folder}
    else:
        places = {p.name: p for p in sorted(folder.iterdir()) if (p / "test").is_dir()}
    if not places:
        expected = "<class>/test/<defect>/NNN.png in it"
        raise UserError(str(folder), "no class (a folder with test/ in it)", expected, "give the folder of the classes")
    return [s for name in _chosen(places, classes, str(folder)) for s in _mvtec_class(name, places[name])]


def _mvtec_class(name: str, folder: Path) -> list[Sample]:
    samples: list[Sample] = []
    for split in SPLITS:
        for defect in sorted(p for p in (folder / split).glob("*") if p.is_dir()):
            pictures = pictures_in(defect)
            if not pictures:
                remedy = f"remove the folder, or put pictures ({', '.join(IMAGES)}) into it"
                raise UserError(str(defect), "no picture", "at least one", remedy)
            for image in pictures:
                mask = None
                if defect.name != NORMAL:
                    mask = folder / MASKS / defect.name / f"{image.stem}_mask.png"
                    if not mask.is_file():
                        raise _no_mask(image, mask)
                samples.append(Sample(image, name, split, mask is not None, mask, defect.name))
    if not samples:
        raise _empty_class(name, str(folder))
    return samples


def read_visa(root: str | Path, classes: Sequence[str] | None = None, split_csv: str = VISA_LIST) -> list[Sample]:
    """Return the samples of VisA (Zou et al., SPot-the-Difference, ECCV 2022) in a published split.

    `split_csv/1cls.csv` has the columns `object,split,label,image,mask`, with paths below the folder
    (`candle/Data/Images/Anomaly/000.JPG`). Masks number the kinds of defects from 1.

    Args:
        root: the folder.
        classes: the classes to read, all by default.
        split_csv: the list, below the folder.

    Raises:
        UserError: no list, a list without a column, a row that is wrong or names a missing file, or no such class.
    """
    folder = Path(root).expanduser()
    path = folder / split_csv
    if not path.is_file():
        remedy = "give the folder that holds split_csv/ beside the classes (VisA's own archive has it)"
        raise UserError(str(path), "no such file", f"a list of {', '.join(VISA_COLUMNS)}", remedy)
    reader = csv.DictReader(io.StringIO(_text(path)))
    missing = [c for c in VISA_COLUMNS if c not in (reader.fieldnames or [])]
    if missing:
        found = f"no column {missing[0]} in {', '.join(reader.fieldnames or ['an empty file'])}"
        raise UserError(str(path), found, ", ".join(VISA_COLUMNS), "take the list from VisA's own archive")
    by_class: dict[str, list[Sample]] = {}
    for number, row in enumerate(reader, start=2):
        where = f"{path}, line {number}"
        split, anomalous = _split(row["split"], where), _label(row["label"], VISA_LABELS, where)
        sample = _listed(folder, row["image"], row["mask"], row["object"], split, anomalous, 1, where)
        by_class.setdefault(row["object"], []).append(sample)
    return [s for name in _chosen(by_class, classes, str(path)) for s in by_class[name]]


def read_jsonl(
    path: str | Path, root: str | Path | None = None, classes: Sequence[str] | None = None, threshold: Count = 128
) -> list[Sample]:
    """Return the samples of a list in JSON lines, one object each, as medical sets are passed on.

    An object has `image_path`, `label` (0 or 1, `normal` or `anomaly`), `class_name` and `mask_path` (null or empty for
    a normal picture), and optionally `split` (`train` or `test`, which is the default) and `defect`.

    Args:
        path: the list.
        root: the folder that relative paths start from; that of the list by default.
        classes: the classes to read, all by default.
        threshold: the smallest value of a mask that is a defect.

    Raises:
        UserError: no list or nothing in it, a line that is wrong or names a missing file, or no such class.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        expected = f"a file of JSON lines with {', '.join(JSON_KEYS)}"
        raise UserError(str(file), "no such file", expected, "give the list itself, not the folder of the pictures")
    folder = file.parent if root is None else Path(root).expanduser()
    by_class: dict[str, list[Sample]] = {}
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        row = _object(line, where)
        split, anomalous = _split(row.get("split", "test"), where), _label(row["label"], JSON_LABELS, where)
        image, mask, name = str(row["image_path"]), row["mask_path"] or "", str(row["class_name"])
        sample = _listed(folder, image, str(mask), name, split, anomalous, threshold, where, row.get("defect"))
        by_class.setdefault(name, []).append(sample)
    if not by_class:
        raise UserError(str(file), "no line", f"one object with {', '.join(JSON_KEYS)} a line", "fill the list")
    return [s for name in _chosen(by_class, classes, str(file)) for s in by_class[name]]


def _text(path: Path) -> str:
    """Return a list's text, with or without the mark that spreadsheets put in front of UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        name = quoted(path)
        remedy = f"if it is Latin-1: iconv -f latin1 -t utf-8 {name} > list.tmp && mv list.tmp {name}"
        raise UserError(str(path), f"no UTF-8 (byte {error.start})", "a list in UTF-8", remedy) from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(where, f"no JSON ({error})", "one object a line", "write it with json.dumps(...)") from error
    if not isinstance(row, dict):
        found, remedy = f"a {type(row).__name__}", "write each entry on a line of its own"
        raise UserError(where, found, f"one object a line, with {', '.join(JSON_KEYS)}", remedy)
    missing = [k for k in JSON_KEYS if k not in row]
    if missing:
        raise UserError(where, f"no {missing[0]}", ", ".join(JSON_KEYS), f"add {missing[0]} (null for no mask)")
    return row


def _listed(
    folder: Path,
    image: str,
    mask: str,
    class_name: str,
    split: SurfaceSplit,
    anomalous: bool,
    threshold: int,
    where: str,
    defect: str | None = None,
) -> Sample:
    """Return the sample of a row of a list, whose files have to be there."""
    picture = folder / image
    if not picture.is_file():
        raise UserError(where, f"{picture}, which is not there", "a picture below the folder", "correct the path")
    if anomalous and not mask:
        raise UserError(where, "an anomaly without a mask", "the path of its mask", "name the mask, or label it normal")
    shown = folder / mask if anomalous else None
    if shown is not None and not shown.is_file():
        raise _no_mask(picture, shown)
    kind = (defect or "anomaly") if anomalous else NORMAL
    return Sample(picture, class_name, split, anomalous, shown, kind, threshold)


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder by name, without those of its folders."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("."))


def _chosen(there: Iterable[str], classes: Sequence[str] | None, where: str) -> list[str]:
    names = list(there)
    for name in classes or []:
        if name not in names:
            near = get_close_matches(name, names, 1)
            remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}"
            raise UserError(where, f"no class {name}", ", ".join(names), remedy)
    return names if classes is None else list(classes)


def _split(value: Any, where: str) -> SurfaceSplit:
    for split in SPLITS:
        if value == split:
            return split
    raise UserError(where, f"split {value!r}", " or ".join(SPLITS), "write test")


def _label(value: Any, labels: dict[Any, bool], where: str) -> bool:
    if not isinstance(value, int | str) or value not in labels:
        whole, damaged = (next(k for k, v in labels.items() if v is kind) for kind in (False, True))
        remedy = f"write {json.dumps(whole)} for a normal picture, {json.dumps(damaged)} for a damaged one"
        raise UserError(where, f"label {value!r}", ", ".join(map(str, labels)), remedy)
    return labels[value]


def _no_mask(image: Path, mask: Path) -> UserError:
    found = f"no mask {mask}"
    return UserError(str(image), found, "a mask for every defect", "add the mask, or move the picture to good/")


def _empty_class(name: str, where: str) -> UserError:
    return UserError(where, f"no picture of class {name}", "train/good/ and test/<defect>/ with pictures", "remove it")
