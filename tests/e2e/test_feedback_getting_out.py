"""A finished feedback run scores new pictures, is evaluated on other data, and leaves the suite; numbers stay equal."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import flipped
from feedback_runs import config
from omegaconf import OmegaConf
from PIL import Image

from asgml.feedback import evaluate as evaluating
from asgml.feedback import exported as exporting
from asgml.feedback.data.generator import write_surfaces
from asgml.feedback.data.seen import picture_contents, read_seen, seen_by
from asgml.feedback.evaluate import evaluate
from asgml.feedback.export import main as export_command
from asgml.feedback.exported import export, load
from asgml.feedback.model.clip import tiny_clip
from asgml.feedback.predict import main as predict_command
from asgml.feedback.predict import predict
from asgml.feedback.restore import restore
from callbacks.errors import UserError
from callbacks.files.sealed import sealed_text
from suite.config.instantiate import build_node
from suite.runs.fingerprint import digest_of
from suite.runs.finished import read_config, referring
from suite.runs.identity import config_hash
from suite.runs.ledger import write_json
from suite.runs.provenance import read_result


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def told(error: pytest.ExceptionInfo[UserError]) -> str:
    return " ".join(str(error.value).split())


def ranked(good: list[float], damaged: list[float]) -> float:
    """AUROC by its meaning: how often a damaged picture scores higher than a normal one."""
    pairs = [(d > g) + (d == g) / 2 for d in damaged for g in good]
    return sum(pairs) / len(pairs)


def auroc_of(run: Path, folder: Path, name: str, **options: Any) -> float:
    """That of the pictures of a class in MVTec AD's layout, by their predictions."""
    places = [str(p) for p in sorted((folder / name / "test").iterdir())]
    scores: dict[bool, list[float]] = {True: [], False: []}
    for row in rows_of(predict(run, places, name, **options)):
        scores[Path(row["file"]).parent.name == "good"].append(float(row["score"]))
    return ranked(scores[True], scores[False])


@pytest.fixture(scope="module")
def surfaces(feedback_run: Path) -> Path:
    """The run's own surfaces."""
    return next((feedback_run.parents[2] / "data" / "surfaces").iterdir())


@pytest.fixture(scope="module")
def other(surfaces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other surfaces in MVTec AD's layout: granite is new to the run, and of wood a picture is not."""
    folder = write_surfaces(tmp_path_factory.mktemp("other") / "mvtec", ["granite", "wood"], 16, 1, 2, 1, 0.1, seed=7)
    shutil.copy(surfaces / "wood" / "test" / "good" / "000.png", folder / "wood" / "test" / "good" / "renamed.png")
    return folder


@pytest.fixture(scope="module")
def exported(feedback_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "adapters"
    assert export(restore(feedback_run), folder) == 0
    return folder


def asks(other: Path) -> list[str]:
    return ["data=mvtec", f"data.root={other}", "data.test_classes=null"]


# -- evaluate
@pytest.mark.parametrize(("which", "key"), [("best", "test_best"), ("last", "test")])
def test_the_own_data_give_the_own_numbers(which: str, key: str, feedback_run: Path) -> None:
    found, own = evaluate(feedback_run, which=which), read_result(feedback_run)
    assert found["test"] == own[key]
    assert found["per_class"]["test"] == own["per_class"][key]
    assert found["pictures"] == own["pictures"]["test"]
    assert found["remarks"] == []


def test_another_data_set_is_scored_whole_and_what_is_asked_twice_is_measured_once(
    feedback_run: Path, other: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Per class it is the ranking of the scores that predict gives; what was seen is no part of it."""
    found = evaluate(feedback_run, asks(other))
    assert found["remarks"] == [
        "of 11 pictures the run has seen 1, 1 that it was chosen on (validation): left out (--keep-seen scores them)",
        "trained on other pictures of wood: not zero-shot there",
    ]
    assert found["pictures"] == {"granite": {"normal": 2, "damaged": 3}, "wood": {"normal": 2, "damaged": 3}}
    last = found["per_class"]["test"][-1]
    assert last["granite"]["image_auroc"] == pytest.approx(auroc_of(feedback_run, other, "granite"), abs=1e-9)
    assert found["test"]["image_auroc"] == pytest.approx(np.mean([last[c]["image_auroc"] for c in found["pictures"]]))
    assert found["test"]["image_auroc"] == found["test"]["image_auroc/loop2"]

    def again(*_: Any) -> dict[str, Any]:
        raise AssertionError("measured twice")

    monkeypatch.setattr(evaluating, "measure", again)
    assert evaluating.main([str(feedback_run), *asks(other), "loader.eval_batch_size=3"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("10 pictures, 6 damaged")
    assert f"{last['granite']['image_auroc']:.4f}" in text
    folder = feedback_run / "evaluations" / found["evaluation"]
    assert text.splitlines()[-1] == str(folder)
    assert len(list((folder / "maps").glob("*.png"))) == 6


def test_classes_are_chosen_and_seen_pictures_scored_where_that_is_asked(feedback_run: Path, other: Path) -> None:
    found = evaluate(feedback_run, [*asks(other)[:2], "data.test_classes=[wood]"], keep_seen=True)
    assert found["samples"] == 6
    assert found["remarks"][0] == "data.test_classes leaves out 1 of 2 classes"
    assert found["remarks"][1].endswith("1 that it was chosen on (validation): scored all the same (--keep-seen)")
    assert found["test"]["image_auroc"] == pytest.approx(auroc_of(feedback_run, other, "wood"), abs=1e-9)


def test_a_class_with_one_kind_of_pictures_is_told(feedback_run: Path, other: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(other, tmp_path / "mvtec")
    for kind in ("missing", "scratch", "spot"):
        shutil.rmtree(folder / "wood" / "test" / kind)
    found = evaluate(feedback_run, asks(folder))
    assert "no damaged picture of wood: in no mean over classes" in found["remarks"]
    assert found["test"]["image_auroc"] == found["per_class"]["test"][-1]["granite"]["image_auroc"]


WRONG: dict[str, tuple[Callable[[Path], list[str]], tuple[str, ...]]] = {
    "all seen": (lambda o: ["data.test_classes=[weave]"], ("has seen 9", "add --keep-seen")),
    "no damage": (lambda o: ["data=mvtec", f"data.root={o}", "data.test_classes=[plain]"], ("asgml.feedback.predict",)),
    "no such class": (lambda o: [*asks(o)[:2], "data.test_classes=[wod]"], ("wod", "granite, wood")),
    "no such folder": (lambda o: ["data=mvtec", f"data.root={o / 'nowhere'}"], ("nowhere", "no such folder")),
    "a training key": (
        lambda o: ["stages.text.lr=1"],
        ("belongs to the training", "asgml.feedback.run … stages.text.lr=1"),
    ),
    "an unknown source": (lambda o: ["data=mvtek"], ("data=mvtec",)),
    "a blur without a middle": (lambda o: ["score.blur=4"], ("set score.blur=3",)),
    "no such accelerator": (lambda o: ["trainer.accelerator=mps", *asks(o)], ("trainer.accelerator", "sees none here")),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_scored_is_refused(
    kind: str, feedback_run: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, parts = WRONG[kind]
    if kind == "no damage":
        shutil.copytree(other / "granite" / "test" / "good", tmp_path / "plain" / "test" / "good")
        other = tmp_path
    more = ["--again"] if kind == "no such accelerator" else []
    assert evaluating.main([str(feedback_run), *words(other), *more]) == UserError.EXIT_CODE
    text = " ".join(capsys.readouterr().err.split())
    for part in parts:
        assert part in text


def test_what_the_runs_before_it_have_seen_a_run_has_seen(feedback_run: Path, surfaces: Path, tmp_path: Path) -> None:
    splits = build_node(config(surfaces.parents[1], tmp_path).data).splits(0)
    own = seen_by(splits, [])
    assert own is not None
    kept = read_seen(feedback_run)
    assert kept is not None
    assert all(np.array_equal(own[split], kept[split]) for split in ("train", "val"))
    both = seen_by(splits, [feedback_run])
    assert both is not None
    assert len(both["train"]) == 2 * len(splits.train)
    assert not set(picture_contents(splits.test)) & {*both["train"], *both["val"]}
    assert seen_by(splits, [tmp_path]) is None, "an earlier run that did not note it"


def test_the_stored_configuration_is_the_run_itself(feedback_run: Path) -> None:
    """Paths in it are resolved; an evaluation is filed in the group of its run all the same."""
    stored = read_config(feedback_run, "asgml.feedback", "feedback system")
    assert config_hash(stored) != feedback_run.name
    assert config_hash(referring(stored)) == feedback_run.name


# -- predict
def test_scores_are_those_of_the_run(feedback_run: Path, surfaces: Path, tmp_path: Path) -> None:
    """Neither labels nor the training data are read."""
    own = read_result(feedback_run)["per_class"]
    places = shutil.copytree(surfaces / "tiles", tmp_path / "mine" / "tiles").parent
    hidden = surfaces.parents[1].rename(tmp_path / "hidden")
    try:
        best = auroc_of(feedback_run, places, "tiles")
        last = auroc_of(feedback_run, places, "tiles", which="last")
    finally:
        hidden.rename(surfaces.parents[1])
    assert best == pytest.approx(own["test_best"][-1]["tiles"]["image_auroc"], abs=1e-9)
    assert last == pytest.approx(own["test"][-1]["tiles"]["image_auroc"], abs=1e-9)


def test_one_row_and_one_map_per_picture(feedback_run: Path, surfaces: Path, tmp_path: Path) -> None:
    good, spot = (surfaces / "tiles" / "test" / kind for kind in ("good", "spot"))
    line = [str(feedback_run), "--data", str(good), str(spot / "001.png"), "--class", "zebra crossing"]
    out, maps = tmp_path / "s.csv", tmp_path / "maps"
    assert predict_command([*line, "-o", str(out), "--maps", str(maps), "score.detection=0"]) == 0
    rows = rows_of(out.read_text())
    assert [r["file"] for r in rows] == [*(str(good / f"00{i}.png") for i in range(3)), str(spot / "001.png")]
    assert {r["class"] for r in rows} == {"zebra crossing"}
    assert [r["map"] for r in rows] == ["000", "001", "002", "001_2"]
    for row in rows:
        pixels = np.load(maps / f"{row['map']}.npy")
        assert pixels.shape == (16, 16)
        assert pixels.dtype == np.float32
        assert float(row["score"]) == pytest.approx(pixels.max(), abs=1e-6)
        assert row["score"] == row["score/loop2"] != row["score/loop1"]
        with Image.open(maps / f"{row['map']}.png") as sheet:
            assert sheet.size == (2 * 128 + 4, 128), "the picture, and the map over it"


def test_the_word_in_the_prompts_is_asked_for_and_matters(feedback_run: Path, surfaces: Path) -> None:
    places = [str(surfaces / "tiles" / "test" / "good")]
    with pytest.raises(UserError) as error:
        predict(feedback_run, places)
    assert "weave, wood, tiles" in told(error)
    scores = {name: [r["score"] for r in rows_of(predict(feedback_run, places, name))] for name in ("tiles", "steel")}
    assert scores["tiles"] != scores["steel"]


def wide(folder: Path) -> Path:
    Image.fromarray(np.full((16, 16), 40000, dtype=np.uint16)).save(folder / "wide.png")
    return folder / "wide.png"


def text(folder: Path) -> Path:
    (folder / "text.png").write_text("no picture")
    return folder / "text.png"


def cut(folder: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:4000])
    return folder / "cut.png"


def outer(folder: Path) -> Path:
    (folder / "outer" / "inner").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(folder / "outer" / "inner" / "a.png")
    return folder / "outer"


UNREAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda d: d / "nowhere", "no such file or folder"),
    "a folder without a picture": (lambda d: d, "no picture in it"),
    "a folder of folders": (outer, "outer/inner"),
    "sixteen bits": (wide, "16 bits"),
    "no picture": (text, "no picture"),
    "half a picture": (cut, "a damaged picture"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_pictures_that_cannot_be_read_are_named(
    kind: str, feedback_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, part = UNREAD[kind]
    place = make(tmp_path)
    line = [str(feedback_run), "--class", "tiles", "--data", str(place), "-o", str(tmp_path / "s.csv")]
    assert predict_command(line) == UserError.EXIT_CODE
    error = capsys.readouterr().err
    assert str(place) in error
    assert part in " ".join(error.split())
    assert not (tmp_path / "s.csv").exists()


def test_a_clip_elsewhere_is_taken_and_another_one_refused(feedback_run: Path, surfaces: Path, tmp_path: Path) -> None:
    run = shutil.copytree(feedback_run, tmp_path / "run")
    cfg = OmegaConf.load(run / "config.yaml")
    for seed in (0, 1):
        clip = tiny_clip(**{k: v for k, v in cfg.clip.items() if k not in ("_target_", "seed")}, seed=seed)
        clip.model.save_pretrained(tmp_path / str(seed))
        clip.tokenizer.save_pretrained(tmp_path / str(seed))
    cfg.clip = {"_target_": "asgml.feedback.model.load_clip", "source": "gone", "local_files_only": True}
    cfg.init.text_adapter = "gone"  # what training started from is not needed again
    (run / "config.yaml").write_bytes(sealed_text(OmegaConf.to_yaml(cfg)))
    places = [str(surfaces / "tiles" / "test" / "spot")]
    assert predict(run, places, "tiles", clip=str(tmp_path / "0")) == predict(feedback_run, places, "tiles")
    with pytest.raises(UserError) as error:
        predict(run, places, "tiles", clip=str(tmp_path / "1"))
    assert "another CLIP" in told(error)
    assert "--clip FOLDER" in told(error)
    with pytest.raises(UserError, match="gone"):
        predict(run, places, "tiles")
    with pytest.raises(UserError, match="leave --clip out"):
        predict(feedback_run, places, "tiles", clip=str(tmp_path / "0"))


# -- export
def test_an_export_scores_without_run_and_data(
    feedback_run: Path, surfaces: Path, exported: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(exported, tmp_path / "elsewhere")
    place = shutil.copytree(surfaces / "tiles" / "test" / "spot", tmp_path / "spot")
    wanted = predict(feedback_run, [str(place)], "marble")
    hidden = feedback_run.parents[2].rename(tmp_path / "hidden")
    try:
        assert predict(moved, [str(place)], "marble") == wanted
        assert predict(moved, [str(place)], "marble", overrides=["score.sigma=2"]) != wanted
    finally:
        hidden.rename(feedback_run.parents[2])
    with pytest.raises(UserError, match="an export of the best weights"):
        predict(moved, [str(place)], "marble", which="last")
    assert json.loads((moved / "export.json").read_text())["parity"] == 0


@pytest.mark.parametrize("place", ["new", "empty"])
def test_what_scores_otherwise_leaves_nothing(
    place: str, feedback_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def moved(*args: Any, **kwargs: Any) -> Any:
        run = load(*args, **kwargs)
        with torch.no_grad():
            next(run.module.model.patch_projections.parameters()).mul_(1.5).add_(0.1)
        return run

    monkeypatch.setattr(exporting, "load", moved)
    folder = tmp_path / "adapters"
    if place == "empty":
        folder.mkdir()
    assert export_command([str(feedback_run), "-o", str(folder)]) == UserError.EXIT_CODE
    assert "differ from the run's" in capsys.readouterr().err
    assert list(folder.iterdir()) == [] if place == "empty" else not folder.exists()


def reseal(folder: Path, **clip: Any) -> None:
    """Write another CLIP into the configuration of an export, as somebody would who means harm."""
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.clip.update(clip)
    (folder / "config.yaml").write_bytes(sealed_text(OmegaConf.to_yaml(cfg)))
    manifest = json.loads((folder / "export.json").read_text())
    manifest["files"]["config.yaml"] = digest_of(folder / "config.yaml")
    write_json(folder / "export.json", manifest)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit of the weights": (lambda d: flipped(0.5)(d / "weights.safetensors"), "weights.safetensors"),
    "no weights": (lambda d: (d / "weights.safetensors").unlink(), "no such file"),
    "no manifest": (lambda d: (d / "export.json").unlink(), "no such file"),
    "another CLIP": (lambda d: reseal(d, seed=1), "another CLIP"),
    "foreign code": (lambda d: reseal(d, _target_="os.system"), "add --trust os"),
    "another program's": (
        lambda d: write_json(d / "export.json", {"format": "asgml network", "version": 1}),
        "asgml network, version 1",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_export_is_refused(kind: str, exported: Path, surfaces: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "adapters")
    damage, part = DAMAGE[kind]
    damage(folder)
    with pytest.raises(UserError) as error:
        predict(folder, [str(surfaces / "tiles" / "test" / "spot")], "tiles")
    assert part in told(error)
