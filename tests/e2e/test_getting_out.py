"""A finished run predicts new files, is scored on other test sets, and leaves the suite; its numbers stay the same."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asgml_runs import config, finish, write_features
from omegaconf import OmegaConf

from asgml import evaluate as evaluating
from asgml import predict as predicting
from asgml import programs
from asgml.evaluate import evaluate
from asgml.export import export, load
from asgml.export import main as export_command
from asgml.predict import predict
from asgml.report.answers import read_answers
from asgml.restore import restore
from callbacks.errors import UserError
from callbacks.files.sealed import sealed_text
from suite.report.data import read_run
from suite.runs.fingerprint import digest_of
from suite.runs.ledger import write_json
from suite.runs.provenance import read_result

MODALITIES = ("audio", "visual")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, whose training file lies beside `runs`; some of its rows lack a modality."""
    folder = tmp_path_factory.mktemp("out")
    npz = write_features(folder / "f.npz", missing=0.2)
    return finish(config(npz, folder / "runs", "trainer.max_epochs=1", "method=uniform"))


@pytest.fixture(scope="module")
def own(run: Path) -> Path:
    return run.parents[2] / "f.npz"


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "network"
    export(restore(run), folder)
    return folder


def change(source: Path, path: Path, **arrays: Any) -> Path:
    """Write a feature file with other arrays; None leaves one out."""
    with np.load(source) as file:
        kept = {name: file[name] for name in file.files if name not in arrays}
    np.savez(path, **kept, **{name: a for name, a in arrays.items() if a is not None})
    return path


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def numbers(rows: list[dict[str, str]], prefix: str) -> np.ndarray:
    """The probabilities (n, 4), NaN where a cell is empty."""
    return np.array([[float(r[f"{prefix}{c}"] or "nan") for c in range(4)] for r in rows], dtype=np.float32)


# -- evaluate
@pytest.mark.parametrize(("which", "key"), [("best", "test_best"), ("last", "test")])
def test_the_own_data_give_the_own_numbers(which: str, key: str, run: Path, own: Path, tmp_path: Path) -> None:
    result = evaluate(run, which=which)
    assert result["test"] == read_result(run)[key]
    elsewhere = shutil.copy(own, tmp_path / "moved.npz")
    assert evaluate(run, [f"data.path={elsewhere}"], which)["evaluation"] == result["evaluation"], "the same content"


def test_another_test_set_is_standardised_as_the_run_was(run: Path, own: Path, tmp_path: Path) -> None:
    other = write_features(tmp_path / "g.npz", n=70, seed=3)
    found = evaluate(run, [f"data.path={other}"])
    module = restore(run).module
    with np.load(own) as train, np.load(other) as test, torch.no_grad():
        rows = test["split"] == 2
        features = {}
        for m in MODALITIES:
            seen = train[f"x_{m}"][(train["split"] == 0) & train[f"present_{m}"]].astype(np.float64)
            x = (test[f"x_{m}"][rows] - seen.mean(0)) / seen.std(0)
            features[m] = module.net.encoders[m](torch.from_numpy(x.astype(np.float32)))
        right = module.net.fusion(features).argmax(1).numpy() == test["y"][rows]
    assert found["samples"] == 20
    assert found["test"]["accuracy"] == pytest.approx(right.mean(), abs=1e-9)
    assert found["test"] != read_result(run)["test_best"]


def test_without_split_every_row_is_scored_and_what_is_asked_twice_is_measured_once(
    run: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [str(run), f"data.path={change(own, tmp_path / 'all.npz', split=None)}", "--keep-seen"]
    assert evaluating.main(line) == 0
    assert capsys.readouterr().out.startswith("120 samples")
    with np.load(next(p for p in run.glob("evaluations/*/predictions.npz") if len(np.load(p)["y"]) == 120)) as kept:
        assert kept["row"].tolist() == list(range(120))

    def again(*_: Any) -> dict[str, Any]:
        raise AssertionError("measured twice")

    monkeypatch.setattr(evaluating, "measure", again)
    assert evaluating.main(line) == 0


def test_a_class_that_is_not_there_is_told(run: Path, own: Path, tmp_path: Path) -> None:
    with np.load(own) as file:
        few = np.where(file["y"] == 3, 0, file["y"])
    told = evaluate(run, [f"data.path={change(own, tmp_path / 'few.npz', y=few, split=None)}"])["remarks"]
    assert told == [
        "of 120 samples the run has seen 100, 80 that it was trained on and 20 that it was chosen on (validation): left"
        " out (--keep-seen scores them)",
        "test has no sample of 3: not measured",
    ]


WRONG: dict[str, tuple[Callable[[Path, Path], list[str]], tuple[str, ...]]] = {
    "a class of its own": (
        lambda own, to: [f"data.path={change(own, to, y=np.arange(120) % 5, split=None)}"],
        ("label 4 in row 4", "the run's 4 classes: 0, 1, 2, 3"),
    ),
    "no labels": (lambda own, to: [f"data.path={change(own, to, y=None)}"], ("y", "python -m asgml.predict")),
    "a modality is gone": (lambda own, to: [f"data.path={change(own, to, x_visual=None)}"], ("save x_visual",)),
    "a foreign modality": (
        lambda own, to: [f"data.path={change(own, to, x_text=np.zeros((120, 3)))}"],
        ("leave x_text out",),
    ),
    "another width": (
        lambda own, to: [f"data.path={change(own, to, x_audio=np.zeros((120, 7), np.float32))}"],
        ("array x_audio", "vector of 7", "vector of 6"),
    ),
    "no test rows": (
        lambda own, to: [f"data.path={change(own, to, split=np.zeros(120, int))}"],
        ("no row of the test split (2)",),
    ),
    "no such accelerator": (
        lambda own, to: ["trainer.accelerator=mps", "+loader.missing.audio=0.5"],
        ("trainer.accelerator", "sees none here"),
    ),
    "no file": (lambda own, to: [f"data.path={to}"], ("no such file",)),
    "a training key": (lambda own, to: ["optimizer.lr=1"], ("belongs to the training", "asgml.run … optimizer.lr=1")),
    "an unknown key": (lambda own, to: ["data.pth=1"], ("the run has no data.pth",)),
    "an unknown source": (lambda own, to: ["data=featurs"], ("data=features",)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_scored_is_refused(
    kind: str, run: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, told = WRONG[kind]
    assert evaluating.main([str(run), *words(own, tmp_path / "wrong.npz")]) == UserError.EXIT_CODE
    text = " ".join(capsys.readouterr().err.split())
    for part in told:
        assert part in text


def test_a_run_that_is_not_finished_or_not_there(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    write_json(copy / "result.json", {**read_result(run), "status": "stopped"})
    with pytest.raises(UserError, match="stopped"):
        evaluate(copy)
    with pytest.raises(UserError, match=r"no config\.yaml"):
        predict(tmp_path / "nothing", ["f.npz"])
    (run / "checkpoints" / "best.ckpt").rename(tmp_path / "best.ckpt")
    try:
        with pytest.raises(UserError, match="--checkpoint last"):
            evaluate(run, ["loader.eval_batch_size=5"], anew=True)
    finally:
        (tmp_path / "best.ckpt").rename(run / "checkpoints" / "best.ckpt")


# -- predict
@pytest.mark.parametrize(("which", "kept"), [("best", "predictions_best.npz"), ("last", "predictions.npz")])
def test_predictions_are_those_of_the_run(which: str, kept: str, run: Path, own: Path, tmp_path: Path) -> None:
    """Labels and splits are not read: neither is in the file."""
    bare = change(own, tmp_path / "bare.npz", y=None, split=None)
    rows = rows_of(predict(run, [str(bare)], which=which))
    assert [r["id"] for r in rows] == [str(i) for i in range(120)]
    with np.load(run / kept) as stored:
        test = stored["split"] == 2
        chosen = [rows[i] for i in stored["row"][test]]
        for column, name in (("prob/", "prob"), *((f"prob/{m}/", f"prob_{m}") for m in MODALITIES)):
            np.testing.assert_allclose(numbers(chosen, column), stored[name][test], rtol=1e-5, atol=1e-7)
        assert [int(r["prediction"]) for r in chosen] == stored["prob"][test].argmax(1).tolist()
        gone = np.isnan(stored["prob_audio"][test][:, 0])
    assert gone.any()
    assert [r["prediction/audio"] == "" for r in chosen] == gone.tolist()


def test_one_row_is_predicted_as_among_others(run: Path, own: Path, tmp_path: Path) -> None:
    """Nothing is measured on new samples: a row alone would be its own mean."""
    with np.load(own) as file:
        row = next(i for i in range(100, 120) if file["present_audio"][i] and file["present_visual"][i])
        one = {name: file[name][row : row + 1] for name in file.files if name not in ("y", "split")}
    np.savez(tmp_path / "one.npz", **one)
    out = tmp_path / "p.csv"
    assert predicting.main([str(run), "--data", str(own), str(tmp_path / "one.npz"), "-o", str(out)]) == 0
    rows = rows_of(out.read_text())
    assert [r["file"] for r in rows] == [*[str(own)] * 120, str(tmp_path / "one.npz")]
    np.testing.assert_allclose(numbers(rows[-1:], "prob/"), numbers(rows[row : row + 1], "prob/"), rtol=1e-5)


# -- export
def test_an_export_predicts_without_run_and_data(
    run: Path, own: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = shutil.copytree(exported, tmp_path / "elsewhere")
    bare = change(own, tmp_path / "bare.npz", y=None, split=None)
    wanted = predict(run, [str(bare)])
    hidden = run.parents[2].rename(tmp_path / "hidden")
    try:
        network = load(moved)
        assert network.classes == ["0", "1", "2", "3"]
        assert predict(moved, [str(bare)]) == wanted
        with np.load(bare) as file:
            both = file["present_audio"] & file["present_visual"]
            found = network.predict({m: file[f"x_{m}"][both] for m in MODALITIES})
            alone = network.predict({"audio": file["x_audio"][both]})
    finally:
        hidden.rename(run.parents[2])
    rows = [r for r, there in zip(rows_of(wanted), both, strict=True) if there]
    np.testing.assert_allclose(found["prob"], numbers(rows, "prob/"), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(alone["prob_audio"], numbers(rows, "prob/audio/"), rtol=1e-4, atol=1e-6)
    assert np.isnan(alone["prob_visual"]).all()
    assert not np.allclose(alone["prob"], found["prob"])


def test_the_program_needs_torch_alone(run: Path, exported: Path) -> None:
    """Any number of rows, and what an absent modality holds reaches nothing."""
    program = torch.export.load(exported / programs.FILES["pt2"]).module()
    x = {"audio": torch.randn(3, 6), "visual": torch.randn(3, 10)}
    present = {"audio": torch.tensor([True, True, False]), "visual": torch.ones(3, dtype=torch.bool)}
    found = program(x, present, {})
    assert found.keys() == {"prob", "prob_audio", "prob_visual"}
    x["audio"][2] = torch.nan
    torch.testing.assert_close(program(x, present, {})["prob"], found["prob"], rtol=0, atol=0)
    with torch.no_grad():
        net = restore(run).module.net
        features = {m: net.encoders[m](x[m][:2]) for m in MODALITIES}
        torch.testing.assert_close(found["prob"][:2], net.fusion(features).softmax(1))
    assert json.loads((exported / "export.json").read_text())["parity"]["network.pt2"] <= programs.TOLERANCE


@pytest.mark.parametrize("place", ["new", "empty"])
def test_a_program_that_predicts_otherwise_leaves_nothing(
    place: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(path: Path, form: str) -> programs.Program:
        return lambda inputs: {
            k: torch.full((len(inputs[1]["audio"]), 4), 0.25) for k in ("prob", "prob_audio", "prob_visual")
        }

    monkeypatch.setattr(programs, "write", lambda run, folder, form: (folder / programs.FILES[form]).write_bytes(b"x"))
    monkeypatch.setattr(programs, "read", other)
    folder = tmp_path / "network"
    if place == "empty":
        folder.mkdir()
    assert export_command([str(run), "-o", str(folder)]) == UserError.EXIT_CODE
    assert "differ from the run's" in capsys.readouterr().err
    assert list(folder.iterdir()) == [] if place == "empty" else not folder.exists()


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit of the weights": (lambda d: flip(d / "weights.safetensors"), "weights.safetensors"),
    "a bit of the statistics": (lambda d: flip(d / "preprocessing.safetensors"), "preprocessing.safetensors"),
    "a bit of the program": (lambda d: flip(d / "network.pt2"), "network.pt2"),
    "no statistics": (lambda d: (d / "preprocessing.safetensors").unlink(), "no such file"),
    "no manifest": (lambda d: (d / "export.json").unlink(), "no such file"),
    "half a manifest": (
        lambda d: (d / "export.json").write_bytes((d / "export.json").read_bytes()[:300]),
        "export.json",
    ),
    "foreign code": (lambda d: seal(d, model={"_target_": "os.system", "command": "true"}), "add --trust os"),
    "another version": (lambda d: seal(d, version=2), "version 2"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def seal(folder: Path, model: dict[str, Any] | None = None, version: int = 1) -> None:
    """Write a manifest anew, as somebody would who means harm."""
    manifest = json.loads((folder / "export.json").read_text())
    manifest["version"] = version
    if model is not None:
        manifest["settings"]["model"] = model
    write_json(folder / "export.json", manifest)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_export_is_refused(kind: str, exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "network")
    damage, told = DAMAGE[kind]
    damage(folder)
    with pytest.raises(UserError) as error:
        load(folder)
    assert told in str(error.value)


def test_files_of_two_exports_do_not_mix(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "network")
    shutil.copy(folder / "preprocessing.safetensors", folder / "weights.safetensors")  # sealed, but not this one
    assert digest_of(folder / "weights.safetensors") != digest_of(exported / "weights.safetensors")
    with pytest.raises(UserError, match="of another export"):
        load(folder)


@pytest.mark.skipif(importlib.util.find_spec("onnx") is not None, reason="onnx is installed")
def test_onnx_that_is_not_there_is_one_screen(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_command([str(run), "-o", str(tmp_path / "n"), "--format", "onnx"]) == UserError.EXIT_CODE
    text = capsys.readouterr().err
    assert "pip install onnx" in text
    assert len(text.splitlines()) < 10
    assert not (tmp_path / "n").exists()


def test_an_export_that_was_interrupted_before_its_parity_was_found_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "my network")
    manifest = json.loads((folder / "export.json").read_text())
    write_json(folder / "export.json", {**{k: v for k, v in manifest.items() if k != "sha256"}, "parity": None})
    with pytest.raises(UserError, match="interrupted") as error:
        load(folder)
    assert "my network'" in error.value.remedy


@pytest.mark.parametrize("name", ["predictions_best.npz", "preprocessing.safetensors"])
def test_files_of_another_run_are_no_part_of_this_one(run: Path, tmp_path: Path, name: str) -> None:
    """Each is intact by itself: what gives it away is the digest in this run's result."""
    other = finish(config(run.parents[2] / "f.npz", tmp_path / "runs", "trainer.max_epochs=1", "seed=1"))
    copied = shutil.copytree(run, tmp_path / "copied")
    (copied / name).write_bytes((other / name).read_bytes() + b"\0" * (name == "preprocessing.safetensors"))
    with pytest.raises(UserError, match="not what the run wrote"):
        read_answers(read_run(copied)) if name.endswith(".npz") else restore(copied)


def test_a_configuration_of_another_network_is_told_apart_from_the_weights(run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "copied")
    cfg = OmegaConf.load(copied / "config.yaml")
    cfg.model.encoder.dim = 2 * cfg.model.encoder.dim
    (copied / "config.yaml").write_bytes(sealed_text(OmegaConf.to_yaml(cfg)))
    with pytest.raises(UserError, match="a network with net"):
        restore(copied)
