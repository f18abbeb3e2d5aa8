"""`experiment=visa_feedback` and `mvtec_feedback` on trees in the published layouts: protocols, settings, errors."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from feedback_runs import compose, fit, prepare
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from asgml.feedback.model.clip import tiny_clip
from asgml.feedback.pictures import save_pictures
from callbacks.errors import UserError
from suite.config.instantiate import build_node

SIDE = 16
TESTED = {
    "visa": ["candle", "capsules", "cashew", "pcb1", "pcb2", "macaroni1"],
    "mvtec": ["bottle", "cable", "carpet", "grid", "screw", "tile", "zipper"],
}
TRAINED = {"visa": ["fryum", "pcb3"], "mvtec": ["hazelnut", "wood"]}


def picture(path: Path, seed: int, damaged: bool, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """Write a grey noise in RGB, with a bright square if damaged."""
    pixels = np.random.default_rng(seed).integers(60, 120, (size[1], size[0], 3), dtype=np.uint8)
    if damaged:
        pixels[4:9, 5:11] = 240
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def mask(path: Path, value: int = 255, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """Write the mask of the square."""
    pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
    pixels[4:9, 5:11] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_mvtec(root: Path) -> Path:
    """Write MVTec AD's layout: of each class pictures without and with a hole, 3 each to train on, 1 each to test."""
    for c, name in enumerate((*TESTED["mvtec"], *TRAINED["mvtec"])):
        picture(root / name / "train" / "good" / "000.png", c, False)
        for i in range(3 if name in TRAINED["mvtec"] else 1):
            picture(root / name / "test" / "good" / f"{i:03d}.png", 100 * c + i, False)
            picture(root / name / "test" / "hole" / f"{i:03d}.png", 100 * c + 50 + i, True)
            mask(root / name / "ground_truth" / "hole" / f"{i:03d}_mask.png")
    return root


def write_visa(root: Path) -> Path:
    """Write VisA's layout with its list: JPEG pictures, masks that number defects."""
    rows = [("object", "split", "label", "image", "mask")]
    for c, name in enumerate((*TESTED["visa"], *TRAINED["visa"])):
        data = Path(name) / "Data"
        count = 3 if name in TRAINED["visa"] else 1
        for i in range(1 + count):
            file = data / "Images" / "Normal" / f"{i:04d}.JPG"
            picture(root / file, 100 * c + i, False)
            rows.append((name, "test" if i else "train", "normal", str(file), ""))
        for i in range(count):
            file, shown = data / "Images" / "Anomaly" / f"{i:03d}.JPG", data / "Masks" / "Anomaly" / f"{i:03d}.png"
            picture(root / file, 100 * c + 50 + i, True)
            mask(root / shown, i + 1)
            rows.append((name, "test", "anomaly", str(file), str(shown)))
    (root / "split_csv").mkdir()
    with (root / "split_csv" / "1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small CLIP as its authors would pass it on: weights, configuration, tokenizer."""
    folder = tmp_path_factory.mktemp("published")
    clip = tiny_clip(SIDE, 4, 16, 16, 2, 2)
    clip.model.save_pretrained(folder / "clip")
    clip.tokenizer.save_pretrained(folder / "clip")
    return folder


@pytest.fixture(scope="module", params=["visa", "mvtec"])
def layout(request: pytest.FixtureRequest, place: Path) -> tuple[str, Path, DictConfig]:
    """Return a layout's name, its tree and the configuration of its experiment, made small but for the method."""
    name: str = request.param
    root = {"visa": write_visa, "mvtec": write_mvtec}[name](place / name)
    small = [f"data.root={root}", f"clip.source={place / 'clip'}", f"size={SIDE}", "heads=2", "stages.text.surgery=2"]
    short = ["stages.text.epochs=1", "stages.image.epochs=1", "callbacks.audit=null", "callbacks.progress=null"]
    quiet = ["trainer.enable_progress_bar=false", "trainer.accelerator=cpu", f"paths.runs={place / 'runs'}"]
    return name, root, compose(f"experiment={name}_feedback", *small, *short, *quiet)


def test_the_experiment_trains_on_some_classes_and_tests_on_others_never_seen(layout) -> None:
    name, _, cfg = layout
    parts = fit(cfg)
    parts.trainer.test(parts.module, datamodule=parts.data, verbose=False)
    pictures = parts.data.summary()
    assert set(pictures["test"]) == set(TESTED[name])
    assert set(pictures["train"]) == set(pictures["val"]) == set(TRAINED[name])
    assert all(row == {"normal": 1, "damaged": 1} for row in pictures["test"].values())
    loops = {"visa": 3, "mvtec": 5}[name]
    assert len(parts.module.per_class["test"]) == loops
    for rows in parts.module.per_class["test"]:
        assert all(0 <= rows[c]["aupro"] <= 1 for c in TESTED[name])
        assert all(rows[c]["aupro"] is None for c in TRAINED[name])
    assert parts.pipeline.counters()["steps"] == {"text": 1, "image": 4}
    assert parts.module.model.clip.name == str(cfg.clip.source)


def test_few_shots_are_trained_on_and_the_test_stays_whole(layout) -> None:
    name, _, cfg = layout
    few = copy.deepcopy(cfg)
    few.data.shots = 1
    pictures = prepare(few).data.summary()
    assert pictures["train"] == {c: {"normal": 1, "damaged": 1} for c in TRAINED[name]}
    assert pictures["test"] == prepare(cfg).data.summary()["test"]


def test_the_other_data_set_can_be_tested_in_place_of_classes(layout, tmp_path: Path) -> None:
    name, _, cfg = layout
    other = {"visa": "mvtec", "mvtec": "visa"}[name]
    crossed = copy.deepcopy(cfg)
    root = {"visa": write_visa, "mvtec": write_mvtec}[other](tmp_path / other)
    crossed.data.test_root, crossed.data.test_layout, crossed.data.test_classes = str(root), other, None
    pictures = prepare(crossed).data.summary()
    assert set(pictures["train"]) == {*TESTED[name], *TRAINED[name]}
    assert set(pictures["test"]) == {*TESTED[other], *TRAINED[other]}


def test_a_finished_run_is_scored_on_the_whole_test_part_of_the_classes_that_are_named(layout) -> None:
    """Nothing of it is kept for training or selection, and `train`, which has no label for its pixels, is left out."""
    name, root, cfg = layout
    classes = {*TESTED[name], *TRAINED[name]}
    node = {**cfg.data, "test_classes": None}
    samples, remarks = build_node(OmegaConf.create(node)).labelled()
    assert {s.class_name for s in samples} == classes
    assert len(samples) == sum(2 * (3 if c in TRAINED[name] else 1) for c in classes)
    assert {s.split for s in samples} == {"test"}
    assert remarks == []
    assert build_node(
        OmegaConf.create({**node, "root": "gone", "test_root": str(root), "test_layout": name})
    ).labelled()
    few, remarks = build_node(cfg.data).labelled()
    assert {s.class_name for s in few} == set(TESTED[name])
    assert remarks == [f"data.test_classes leaves out {len(TRAINED[name])} of {len(classes)} classes"]
    with pytest.raises(UserError, match="classes of the data"):
        build_node(OmegaConf.create({**node, "test_classes": ["marble"]})).labelled()


def test_every_damaged_picture_of_a_list_has_a_file_of_its_own_whatever_its_class_is_called(
    place: Path, tmp_path: Path
) -> None:
    rows = []
    for name in ("brain/MRI", "liver/CT"):
        for i in range(3):
            for label, kind in enumerate(("normal", "damaged")):
                image = picture(tmp_path / name / kind / str(i) / "scan.png", i, bool(label))
                rows.append({"image_path": str(image), "label": label, "class_name": name,
                             "mask_path": str(mask(tmp_path / "mask.png")) if label else None})  # fmt: skip
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    listed = ["data.layout=jsonl", f"data.root={tmp_path / 'list.jsonl'}", "data.test_classes=[liver/CT]"]
    small = ["clip=hub", f"clip.source={place / 'clip'}", f"size={SIDE}", "heads=2", f"paths.runs={tmp_path}"]
    parts = prepare(compose("experiment=magnetic_tile", *listed, *small))
    save_pictures(parts.module, parts.data.surfaces["test"], tmp_path / "maps")
    names = ["liver_CT_anomaly_scan.png", "liver_CT_anomaly_scan_2.png", "liver_CT_anomaly_scan_3.png"]
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == names


def test_the_historic_settings_are_those_that_the_experiments_have() -> None:
    first, second = (compose(f"experiment={n}_feedback", "data.root=x") for n in ("visa", "mvtec"))
    for cfg in (first, second):
        text, image = cfg.stages.text, cfg.stages.image
        assert (text.epochs, text.batch_size, text.lr, text.surgery) == (5, 16, 1e-5, 20)
        assert (image.epochs, image.batch_size, list(image.halve_at)) == (20, 2, [16000, 32000])
        assert (cfg.size, cfg.variant, cfg.adapter_weight, cfg.data.shots) == (518, "norm_matched", 0.1, 32)
        assert cfg.clip.source == "openai/clip-vit-large-patch14-336"
        assert list(cfg.optimizer.betas) == [0.5, 0.999]
    assert (first.loops, first.stages.image.lr) == (3, 5e-4)
    assert (second.loops, second.stages.image.lr) == (5, 2e-3)


def of(name: str, root: Path) -> tuple[Path, Path]:
    """Return a damaged picture of the first tested class, and its mask."""
    if name == "visa":
        data = root / TESTED[name][0] / "Data"
        return data / "Images" / "Anomaly" / "000.JPG", data / "Masks" / "Anomaly" / "000.png"
    folder = root / TESTED[name][0]
    return folder / "test" / "hole" / "000.png", folder / "ground_truth" / "hole" / "000_mask.png"


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((SIDE, SIDE), 40000, dtype=np.uint16)).save(path, format="PNG")


def transparent(path: Path) -> None:
    Image.fromarray(np.full((SIDE, SIDE, 4), 90, dtype=np.uint8)).save(path, format="PNG")


def emptied(image: Path) -> None:
    for path in image.parent.iterdir():
        path.unlink()


# what is wrong: how it comes about, what is found, what to do, and which file or folder is named
WRONG: dict[str, tuple[Callable[[Path, Path], object], str, str, str]] = {
    "missing mask": (lambda image, shown: shown.unlink(), "no mask", "add the mask", "mask"),
    "mask of another size": (lambda image, shown: mask(shown, size=(20, 12)), "20 × 12 pixels", "anew", "mask"),
    "16 bits": (lambda image, shown: sixteen_bits(image), "it has 16 bits", "python -c", "image"),
    "transparency": (lambda image, shown: transparent(image), "it has transparency", "python -c", "image"),
    "transparent mask": (lambda image, shown: transparent(shown), "it has transparency", "python -c", "mask"),
    "empty class": (lambda image, shown: emptied(image), "no picture|which is not there", "remove|correct", "folder"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["visa", "mvtec"])
def test_what_is_wrong_in_a_tree_stops_the_run_before_it_begins(name: str, wrong: str, tmp_path: Path) -> None:
    root = {"visa": write_visa, "mvtec": write_mvtec}[name](tmp_path / name)
    image, shown = of(name, root)
    spoil, found, remedy, named = WRONG[wrong]
    spoil(image, shown)
    with pytest.raises(UserError, match=found) as caught:
        prepare(spoilt(name, root, tmp_path))
    assert any(word in caught.value.remedy for word in remedy.split("|"))
    assert str({"image": image, "mask": shown, "folder": image.parent}[named]) in str(caught.value)


_TREES: dict[str, DictConfig] = {}


def spoilt(name: str, root: Path, runs: Path) -> DictConfig:
    """Return the tree of an experiment, composed once, with a CLIP that is nowhere: it must not be reached."""
    if name not in _TREES:
        _TREES[name] = compose(f"experiment={name}_feedback", "data.root=x", "clip.source=/nowhere")
    cfg = copy.deepcopy(_TREES[name])
    cfg.data.root, cfg.paths.runs = str(root), str(runs)
    return cfg
