"""What a finished run says of itself: its best epoch, its class counts, and where its test samples come from."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asgml_runs import config, write_features
from damage import DAMAGE, Damage, flipped
from synthetic_runs import JOINT, STALENESS, write_run

from asgml.model.net import MultimodalNet
from asgml.report.answers import read_answers
from asgml.report.samples import sample_table
from asgml.run import train
from asgml.train.teachers import load_teacher
from callbacks.errors import UserError
from callbacks.run.stored import write_checkpoint
from suite.report.data import read_run, read_runs
from suite.report.grouping import group_runs
from suite.runs.job import execute
from suite.statistics import hierarchical_bootstrap


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """Return the directory of a finished run, and the arrays of its file: rows in no order, groups of three."""
    folder = tmp_path_factory.mktemp("result")
    path = write_features(folder / "features.npz")
    order = np.random.default_rng(1).permutation(120)
    arrays: dict[str, Any] = {name: x[order] for name, x in np.load(path).items()}
    arrays["group"] = np.array([f"speaker {i // 3:02d}" for i in range(120)])
    np.savez(path, **arrays)
    outcome = execute(config(path, folder / "runs", "method=joint", "trainer.max_epochs=3"), "asgml", train)
    assert outcome.status == "finished", outcome.error
    return outcome.dir, arrays


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_predictions_are_refused(damage: Damage, finished: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "result.json", "predictions_best.npz"):
        shutil.copy(finished[0] / name, folder)
    assert read_answers(read_run(folder)) is not None
    damage(folder / "predictions_best.npz")
    with pytest.raises(UserError, match=r"predictions_best\.npz") as told:
        read_answers(read_run(folder))
    assert told.value.remedy.startswith(f"rm {folder / 'predictions_best.npz'}")


def test_a_damaged_or_exchanged_teacher_is_refused(finished: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "runs" / finished[0].name)
    path = folder / "checkpoints" / "best.ckpt"
    net = MultimodalNet.__new__(MultimodalNet)  # the file is judged before the network is asked anything
    flipped(0.5)(path)
    with pytest.raises(UserError, match="damaged or edited") as told:
        load_teacher(net, "audio", path, "methods.umt.checkpoints", False)
    assert str(folder) in told.value.remedy
    write_checkpoint({"state_dict": {}, "callbacks": {"StepCheckpoint": {"config_hash": "0123456789ab"}}}, path)
    with pytest.raises(UserError, match="another run, 0123456789ab"):
        load_teacher(net, "audio", path, "methods.umt.checkpoints", False)


@pytest.mark.parametrize("name", ["predictions.npz", "predictions_best.npz"])
def test_every_prediction_names_its_row_and_group_in_the_file(name: str, finished: Any) -> None:
    folder, arrays = finished
    with np.load(folder / name, allow_pickle=False) as stored:
        kept = dict(stored.items())
    assert np.array_equal(arrays["y"][kept["row"]], kept["y"])
    assert np.array_equal(arrays["split"][kept["row"]], kept["split"])
    assert np.array_equal(arrays["group"][kept["row"]], kept["group"])
    assert [int(i) for i in kept["id"]] == kept["row"].tolist()
    assert len(set(kept["row"].tolist())) == 40


def test_the_best_epoch_is_that_of_the_checkpoint_and_of_the_highest_accuracy(finished: Any) -> None:
    folder, _ = finished
    result = json.loads((folder / "result.json").read_text())
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["callbacks"]["StepCheckpoint"]
    assert result["best_epoch"] == state["best_epoch"]
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    curve = {
        metric: {int(r["epoch"]): float(r["value"]) for r in rows if r["name"] == metric}
        for metric in ("val/accuracy", "val/loss")
    }
    best = max(range(3), key=lambda e: (curve["val/accuracy"][e], -curve["val/loss"][e]))
    assert result["best_epoch"] == best
    assert result["best_score"] == pytest.approx({name: values[best] for name, values in curve.items()})
    assert result["best_score"]["val/accuracy"] == pytest.approx(result["val_best"]["accuracy"])
    assert result["best_step"] == 10 * (best + 1)
    assert "epochs to the" in (folder / "report.html").read_text()


def test_the_class_counts_are_those_of_the_file(finished: Any) -> None:
    folder, arrays = finished
    result = json.loads((folder / "result.json").read_text())
    for code, split in enumerate(("train", "val", "test")):
        y = arrays["y"][arrays["split"] == code]
        assert result["class_counts"][split] == [int((y == c).sum()) for c in range(4)]


def grouped(folder: Path, kind: dict[str, Any], groups: np.ndarray | None, seed: int = 0) -> None:
    path = write_run(folder, kind, seed, epochs=1, history=False) / "predictions_best.npz"
    if groups is not None:
        arrays = dict(np.load(path))
        whole = np.concatenate([np.full(30, "nobody"), groups])
        np.savez(path, **arrays, group=whole, grouped_by=np.array("speaker"))


def samples(folder: Path) -> Any:
    (frames,) = group_runs(read_runs([folder]))
    return sample_table(frames)


def test_samples_of_one_group_are_drawn_together_and_the_table_says_so(tmp_path: Path) -> None:
    groups = np.repeat([f"s{i}" for i in range(6)], 10)
    for seed in range(2):
        grouped(tmp_path, JOINT, groups, seed)
        grouped(tmp_path, STALENESS, None, seed)  # a file from before groups were kept
    table = samples(tmp_path)
    assert any("Clustered by speaker: 6 clusters" in note and "too narrow" in note for note in table.notes)
    for row, kind in zip(table.rows, ("sync", "staleness"), strict=True):
        runs = [r for r in read_runs([tmp_path]) if r.config["asgml"]["mode"] == kind]
        right = {r.seed: found.correct for r in runs if (found := read_answers(r)) is not None}
        expected = hierarchical_bootstrap(right, groups=groups, n_boot=2000)
        shown = f"{100 * expected.estimate:.2f} [{100 * expected.low:.2f}, {100 * expected.high:.2f}]"
        assert row[2].text == shown


def test_one_group_is_no_cluster_to_draw(tmp_path: Path) -> None:
    grouped(tmp_path, JOINT, np.full(60, "theo"))
    table = samples(tmp_path)
    assert any("All test samples are of one speaker" in note for note in table.notes)
    low, high = (float(x) for x in table.rows[0][2].text.split("[")[1].rstrip("]").split(","))
    assert high - low > 5


def test_predictions_without_origin_still_read(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, JOINT, 0, epochs=1, history=False))
    found = read_answers(run)
    assert found is not None
    assert (found.group, found.clusters, found.classes) == (None, 0, 6)
