"""Surfaces in the published layouts: what is read, as what, and what is refused with a remedy."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asgml.feedback.data import generator
from asgml.feedback.data.dataset import MEAN, STD, SurfaceDataset
from asgml.feedback.data.files import read_mask
from asgml.feedback.data.folders import SurfaceFolders
from asgml.feedback.data.generator import write_surfaces
from asgml.feedback.data.layouts import read_jsonl, read_mvtec, read_visa
from asgml.feedback.data.protocol import few_shot, zero_shot
from asgml.feedback.data.sample import Sample
from callbacks.errors import UserError

DATA = Path(os.environ.get("SUITE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (12, 8), value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], len(mode)) if mode in ("RGB", "RGBA") else (size[1], size[0])
    Image.fromarray(np.full(shape, value, dtype=np.uint16 if mode == "I;16" else np.uint8)).save(path)
    return path


def mask(path: Path, value: int = 255, size: tuple[int, int] = (12, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
    pixels[2:6, 3:9] = value
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def mvtec(tmp_path):
    for name in ("bottle", "grid"):
        picture(tmp_path / name / "train" / "good" / "000.png")
        picture(tmp_path / name / "test" / "good" / "000.png")
        picture(tmp_path / name / "test" / "hole" / "001.png")
        mask(tmp_path / name / "ground_truth" / "hole" / "001_mask.png")
    (tmp_path / "license.txt").write_text("")
    return tmp_path


@pytest.fixture
def visa(tmp_path):
    rows = ["object,split,label,image,mask"]
    for split, label, file in (("train", "normal", "0.JPG"), ("test", "normal", "1.JPG"), ("test", "anomaly", "2.JPG")):
        folder = "Normal" if label == "normal" else "Anomaly"
        image = picture(tmp_path / "candle" / "Data" / "Images" / folder / file)
        shown = ""
        if label == "anomaly":
            shown = str(mask(tmp_path / "candle" / "Data" / "Masks" / "Anomaly" / "2.png", 2).relative_to(tmp_path))
        rows.append(f"candle,{split},{label},{image.relative_to(tmp_path)},{shown}")
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    return tmp_path


def kinds(samples: list[Sample]) -> list[tuple[str, str, bool, str]]:
    return [(s.class_name, s.split, s.anomalous, s.defect) for s in samples]


def test_mvtec_is_read_by_class_split_and_defect(mvtec):
    expected = [("train", False, "good"), ("test", False, "good"), ("test", True, "hole")]
    assert kinds(read_mvtec(mvtec)) == [(n, *rest) for n in ("bottle", "grid") for rest in expected]
    assert kinds(read_mvtec(mvtec, ["grid"])) == kinds(read_mvtec(mvtec / "grid"))
    sample = SurfaceDataset(read_mvtec(mvtec / "grid"), 8)[2]
    assert sample["label"] == 1
    assert sample["image"].shape == (3, 8, 8)
    grey = (torch.full((3,), 100 / 255) - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(sample["image"].mean((1, 2)), grey, atol=1e-5)
    assert sample["mask"].nonzero().amin(0).tolist() == [2, 2]
    assert sample["mask"].nonzero().amax(0).tolist() == [5, 5]


def test_visa_is_read_by_its_list_and_its_masks_number_defects(visa):
    samples = read_visa(visa)
    assert kinds(samples) == [
        ("candle", "train", False, "good"),
        ("candle", "test", False, "good"),
        ("candle", "test", True, "anomaly"),
    ]
    assert SurfaceDataset(samples, 8)[2]["mask"].sum() == 16  # of value 2, where MVTec's would be 255
    assert SurfaceDataset(samples, 8)[1]["mask"].sum() == 0


def test_a_list_in_json_lines_is_read_from_its_own_folder(mvtec):
    lines = [
        {"image_path": "grid/test/hole/001.png", "label": 1, "class_name": "grid", "mask_path": None},
        {"image_path": "grid/test/good/000.png", "label": 0, "class_name": "grid", "mask_path": ""},
    ]
    path = mvtec / "list.jsonl"
    write = lambda: path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")  # noqa: E731
    write()
    with pytest.raises(UserError, match=r"line 1\n.*an anomaly without a mask"):
        read_jsonl(path)
    lines[0]["mask_path"] = "grid/ground_truth/hole/001_mask.png"
    write()
    assert kinds(read_jsonl(path)) == [("grid", "test", True, "anomaly"), ("grid", "test", False, "good")]
    for change, message in (
        ({"label": 3}, "label 3"),
        ({"split": "val"}, "train or test"),
        ({"image_path": "grid/no.png"}, "which is not there"),
        ({"mask_path": "grid/no.png"}, "no mask"),
    ):
        path.write_text(json.dumps(lines[0] | change))
        with pytest.raises(UserError, match=message):
            read_jsonl(path)
    path.write_text('{"label": 1}')
    with pytest.raises(UserError, match="add image_path"):
        read_jsonl(path)
    path.write_text("image_path,label")
    with pytest.raises(UserError, match="no JSON"):
        read_jsonl(path)


def test_a_missing_mask_and_an_empty_class_are_refused(mvtec, visa):
    (mvtec / "grid" / "ground_truth" / "hole" / "001_mask.png").unlink()
    with pytest.raises(UserError, match=r"grid/test/hole/001.png\n.*no mask .*001_mask.png"):
        read_mvtec(mvtec)
    (mvtec / "grid" / "test" / "hole" / "001.png").unlink()
    with pytest.raises(UserError, match=r"grid/test/hole\n.*no picture"):
        read_mvtec(mvtec)
    for p in list((mvtec / "bottle").rglob("*.png")):
        p.unlink()
    with pytest.raises(UserError, match="no picture"):
        read_mvtec(mvtec, ["bottle"])
    with pytest.raises(UserError, match="did you mean grid"):
        read_mvtec(mvtec, ["gird"])
    (visa / "candle" / "Data" / "Masks" / "Anomaly" / "2.png").unlink()
    with pytest.raises(UserError, match=r"no mask .*Anomaly/2.png"):
        read_visa(visa)
    (visa / "split_csv" / "1cls.csv").write_text("object,split,label,image")
    with pytest.raises(UserError, match="no column mask"):
        read_visa(visa)


@pytest.mark.parametrize(
    ("mode", "message"),
    [("RGBA", "transparency"), ("I;16", "16 bits")],
)
@pytest.mark.parametrize("what", ["picture", "mask"])
def test_sixteen_bits_and_transparency_are_refused_before_a_run_begins(mvtec, mode, message, what):
    place = {"picture": "test/hole/001.png", "mask": "ground_truth/hole/001_mask.png"}[what]
    picture(mvtec / "grid" / place, mode, value=200)
    with pytest.raises(UserError, match=message) as caught:
        SurfaceDataset(read_mvtec(mvtec), 8)
    exec(shlex.split(caught.value.remedy)[-1], {})
    SurfaceDataset(read_mvtec(mvtec), 8)


def test_a_mask_of_another_size_or_without_defect_and_a_file_that_is_no_picture_are_refused(mvtec):
    where = mvtec / "grid" / "ground_truth" / "hole" / "001_mask.png"
    mask(where, size=(8, 12))
    with pytest.raises(UserError, match=r"8 × 12 pixels\n.*12 × 8, those of .*001.png"):
        SurfaceDataset(read_mvtec(mvtec), 8)
    mask(where, value=2)
    with pytest.raises(UserError, match="its largest value is 2"):
        SurfaceDataset(read_mvtec(mvtec), 8)
    (mvtec / "grid" / "test" / "hole" / "001.png").write_text("no picture")
    with pytest.raises(UserError, match=r"001.png\n.*no picture"):
        SurfaceDataset(read_mvtec(mvtec), 8)


@pytest.mark.parametrize(("mode", "folder"), [("RGB", "grid"), ("L", "grid"), ("P", "grid"), ("RGBA", "maker's")])
def test_the_conversion_that_is_named_takes_transparency_away_whatever_the_folder_is_called(tmp_path, mode, folder):
    place = tmp_path / folder / "0.png"
    place.parent.mkdir()
    colour = {"RGB": {"transparency": (9, 9, 9)}, "RGBA": {}}.get(mode, {"transparency": 9})
    Image.new(mode, (12, 8)).save(place, **colour)
    with pytest.raises(UserError, match="transparency") as caught:
        SurfaceDataset([Sample(place, "grid", "test", False)], 8)
    exec(shlex.split(caught.value.remedy.removeprefix("convert it once: "))[-1], {})
    assert SurfaceDataset([Sample(place, "grid", "test", False)], 8)[0]["image"].shape == (3, 8, 8)


def test_a_picture_that_ends_too_early_is_named_and_tiff_is_read(tmp_path):
    place = picture(tmp_path / "grid" / "test" / "good" / "0.tif", size=(40, 40))
    assert len(SurfaceDataset(read_mvtec(tmp_path), 8)[0]["image"]) == 3
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(place, format="PNG")
    place.write_bytes(place.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"0.tif\n.*damaged picture"):
        SurfaceDataset(read_mvtec(tmp_path), 8)[0]


def test_lists_may_begin_with_a_mark_and_what_is_wrong_in_them_is_told(mvtec, visa):
    row = {"image_path": "grid/test/hole/001.png", "label": 1, "class_name": "grid",
           "mask_path": "grid/ground_truth/hole/001_mask.png"}  # fmt: skip
    path = mvtec / "list.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8-sig")
    assert kinds(read_jsonl(path)) == [("grid", "test", True, "anomaly")]
    path.write_text(json.dumps(row | {"label": "1"}))
    with pytest.raises(UserError, match="write 0 for a normal picture, 1 for a damaged one"):
        read_jsonl(path)
    path.write_text(json.dumps([row, row]))
    with pytest.raises(UserError, match="a line of its own"):
        read_jsonl(path)
    path.write_bytes(json.dumps(row | {"class_name": "bär"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(UserError, match=r"list.jsonl\n.*no UTF-8"):
        read_jsonl(path)
    with (visa / "split_csv" / "1cls.csv").open("ab") as file:
        file.write(b"\nk\xe4se,test,normal,a.JPG,")
    with pytest.raises(UserError, match=r"1cls.csv\n.*no UTF-8"):
        read_visa(visa)


def test_masks_that_number_defects_are_read_with_a_threshold_and_a_dark_one_stops_the_start(tmp_path):
    for name in ("good", "hole"):
        for i in range(5):
            picture(tmp_path / "grid" / "test" / name / f"{i}.png")
            mask(tmp_path / "grid" / "ground_truth" / "hole" / f"{i}_mask.png", value=1)
    source = SurfaceFolders(str(tmp_path), mask_threshold=1)
    test = source.splits(0).test
    assert [int(row["mask"].any()) for row in SurfaceDataset(test, 8)] == [s.anomalous for s in test]
    with pytest.raises(UserError, match=r"its largest value is 1(.|\n)*\+data.mask_threshold=1"):
        SurfaceDataset(SurfaceFolders(str(tmp_path)).splits(0).test, 8)


def test_a_validation_without_defects_is_refused_before_anything_is_selected_by_it(tmp_path):
    for i in range(6):
        picture(tmp_path / "grid" / "test" / "good" / f"{i}.png")
    for defect in ("hole", "crack"):
        for i in range(2):  # one is tested, one is trained on
            picture(tmp_path / "grid" / "test" / defect / f"{i}.png")
            mask(tmp_path / "grid" / "ground_truth" / defect / f"{i}_mask.png")
    with pytest.raises(UserError, match=r"data: val\n.*no damaged one among 1 pictures"):
        SurfaceFolders(str(tmp_path)).splits(0)


def test_a_small_defect_does_not_vanish_by_scaling(tmp_path):
    image = picture(tmp_path / "a.png", size=(64, 64))
    pixels = np.zeros((64, 64), dtype=np.uint8)
    pixels[40, 9] = 255
    Image.fromarray(pixels).save(tmp_path / "m.png")
    found = read_mask(Sample(image, "a", "test", True, tmp_path / "m.png"), 8)
    assert np.argwhere(found).tolist() == [[5, 1]]


def sample(name: str, split: str, anomalous: bool, i: int) -> Sample:
    return Sample(Path(f"{name}/{split}/{i}.png"), name, split, anomalous)


def test_zero_shot_trains_on_the_labelled_part_of_other_classes():
    everything = [sample(n, s, a, i) for n in "abc" for s, a in (("train", False), ("test", False), ("test", True))
                  for i in range(3)]  # fmt: skip
    train, test = zero_shot(everything, ["b"])
    assert {s.class_name for s in train} == {"a", "c"}
    assert {s.class_name for s in test} == {"b"}
    assert {s.split for s in train + test} == {"test"}
    assert len(train) == 12
    assert {s.class_name for s in zero_shot(everything, ["b"], ["a"])[0]} == {"a"}
    for wrong, message in (
        ((["d"],), r"set data\.test_classes=null"),
        ((["d", "b"],), r"set data\.test_classes=\[b\]"),
        ((["b"], ["a", "b"]), "which is tested"),
        ((["a", "b", "c"],), "nothing to train on"),
    ):
        with pytest.raises(UserError, match=message):
            zero_shot(everything, *wrong)
    with pytest.raises(UserError, match="only defects"):
        zero_shot([s for s in everything if s.anomalous or s.class_name != "b"], ["b"])


def test_few_shots_are_of_each_class_and_label_and_more_of_them_contain_the_fewer():
    everything = [sample(n, "test", a, i) for n in "ab" for a in (False, True) for i in range(9)]
    two, five = few_shot(everything, 2, seed=1), few_shot(everything, 5, seed=1)
    assert len(two) == 8
    assert set(two) < set(five)
    assert few_shot(list(reversed(everything)), 2, seed=1) == list(reversed(two))
    assert few_shot(everything, 2, seed=2) != two
    assert few_shot(everything, 99) == everything
    with pytest.raises(UserError, match="1 or more"):
        few_shot(everything, 0)


def test_magnetic_tiles_are_a_class_of_their_own():
    if not (DATA / "magnetic_tile").is_dir():
        pytest.skip(f"no magnetic_tile in {DATA} (set SUITE_DATA)")
    samples = read_mvtec(DATA / "magnetic_tile")
    assert len(samples) == 190
    assert sum(s.anomalous for s in samples) == 60
    assert {s.defect for s in samples} == {"good", "blowhole", "break", "crack", "fray", "uneven"}
    data = SurfaceDataset(samples, 28)
    assert all(data[i]["mask"].any() == samples[i].anomalous for i in range(100, 190, 7))


def test_two_processes_may_render_the_same_surfaces_at_once(tmp_path, monkeypatch):
    options = {"classes": ["weave"], "size": 16, "train": 1, "good": 1, "per_defect": 1}
    write = generator._write_class

    def slower(*arguments):  # the other one has finished in the meantime
        monkeypatch.undo()
        write_surfaces(tmp_path / "s", **options)
        write(*arguments)

    monkeypatch.setattr(generator, "_write_class", slower)
    assert write_surfaces(tmp_path / "s", **options) == tmp_path / "s"
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    assert len(read_mvtec(tmp_path / "s")) == 1 + 1 + 3


def test_a_damaged_list_of_settings_is_told_with_what_renders_them_again(tmp_path):
    options = {"classes": ["weave"], "size": 16, "train": 0, "good": 1, "per_defect": 1}
    root = write_surfaces(tmp_path / "s", **options)
    for damage in (b"", b"{", b"[]", b"\xff"):
        (root / "surfaces.json").write_bytes(damage)
        with pytest.raises(UserError, match="rendered again"):
            write_surfaces(root, **options)


def test_surfaces_are_written_once_and_read_as_mvtec(tmp_path):
    options = {"classes": ["weave", "granite"], "size": 32, "train": 2, "good": 2, "per_defect": 1}
    root = write_surfaces(tmp_path / "s", **options)
    samples = read_mvtec(root)
    assert len(samples) == 2 * (2 + 2 + 3)
    assert {s.defect for s in samples} == {"good", "scratch", "spot", "missing"}
    time = (root / "surfaces.json").stat().st_mtime_ns
    assert write_surfaces(tmp_path / "s", **options) == root
    assert (root / "surfaces.json").stat().st_mtime_ns == time
    with pytest.raises(UserError, match="surfaces of other settings"):
        write_surfaces(tmp_path / "s", **options | {"seed": 1})
    more = read_mvtec(write_surfaces(tmp_path / "more", **options | {"per_defect": 2, "good": 3}))
    same = {s.image.relative_to(tmp_path / "more"): s.image.read_bytes() for s in more}
    assert all(same[s.image.relative_to(root)] == s.image.read_bytes() for s in samples)
    for wrong, message in (
        ({"classes": ["silk"]}, "silk"),
        ({"classes": []}, "none"),
        ({"difficulty": 2}, "from 0 to 1"),
        ({"size": 4}, "size"),
    ):
        with pytest.raises(UserError, match=message):
            write_surfaces(tmp_path / "x", **options | wrong)
