"""What predictions rely on: mispaired test samples against pairs that are made of the inputs, row by row."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asgml_runs import config, fit, write_features
from synthetic_runs import JOINT, OGM_GE, write_run

from asgml.report.reliance import reliance_table
from asgml.run import train
from asgml.train.reliance import Reliance, mispaired, partners
from suite.report.data import read_runs
from suite.report.grouping import group_runs
from suite.runs.identity import config_hash
from suite.runs.job import execute


def test_partners_are_of_another_class_drawn_evenly_from_those_that_may() -> None:
    y = np.arange(3000) % 5 % 4  # class 0 twice as often
    rows, candidates = np.arange(0, 3000, 2), np.arange(1, 3000, 3)
    drawn = partners(y, rows, candidates, [1, 2])
    assert (y[drawn] != y[rows]).all()
    assert set(drawn) <= set(candidates)
    share = np.bincount(y[drawn[y[rows] == 3]], minlength=4) / (y[rows] == 3).sum()
    assert share == pytest.approx([0.5, 0.25, 0.25, 0.0], abs=0.07)
    assert np.array_equal(drawn, partners(y, rows, candidates, [1, 2]))
    assert not np.array_equal(drawn, partners(y, rows, candidates, [2, 2]))
    assert (partners(np.zeros(4, int), np.arange(4), np.arange(4), [0]) == -1).all()


def test_what_mispaired_predictions_follow_is_counted_row_by_row() -> None:
    prob = torch.rand(50, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    y, swapped = torch.arange(50) % 5, (torch.arange(50) % 5 + 1 + torch.arange(50) // 5 % 4) % 5
    found = {"follows": 0.0, "stays": 0.0, "both": 0.0, "confidence": 0.0, "confidence_others": 0.0}
    for p, a, b in zip(prob.tolist(), y.tolist(), swapped.tolist(), strict=True):
        order = sorted(range(5), key=lambda c: -p[c])
        found["follows"] += (order[0] == b) / 50
        found["stays"] += (order[0] == a) / 50
        found["both"] += ({order[0], order[1]} == {a, b}) / 50
        found["confidence"] += p[b] / 50
        found["confidence_others"] += p[a] / 50
    assert mispaired(prob, y, swapped) == pytest.approx(found, abs=1e-6)


def one_by_one(parts: Any, inputs: dict[str, torch.Tensor | None], y: int) -> list[float]:
    """The prediction of one sample, from its inputs on."""
    batch = {
        "x": {
            m: torch.zeros(1, *parts.data.spec.modalities[m].shape)[:0] if x is None else x for m, x in inputs.items()
        },
        "rows": {m: torch.arange(0) if x is None else None for m, x in inputs.items()},
        "y": torch.tensor([y]),
        "index": torch.tensor([0]),
    }
    module = parts.module
    module.eval()
    with torch.no_grad():
        return module.prediction(module.step_of(batch))[0].tolist()


@pytest.mark.parametrize(("method", "fusion"), [("joint", "transformer"), ("reconboost", "concat")])
def test_it_is_what_pairs_of_inputs_give(tmp_path: Path, method: str, fusion: str) -> None:
    """With missing rows, and with a method that predicts by the heads; the last sample of a batch like the first."""
    npz = write_features(tmp_path / "features.npz", missing=0.2)
    cfg = config(npz, tmp_path / "runs", f"method={method}", f"fusion={fusion}", "trainer.max_epochs=1")
    parts = fit(cfg)
    parts.trainer.test(parts.module, datamodule=parts.data, verbose=False)
    (measured,) = [c for c in parts.trainer.callbacks if isinstance(c, Reliance)]
    samples: list[dict[str, torch.Tensor | None]] = []
    for batch in parts.data.test_dataloader():
        size = len(batch["y"])
        place = {m: range(size) if rows is None else rows.tolist() for m, rows in batch["rows"].items()}
        for i in range(size):
            samples.append({m: batch["x"][m][[list(place[m]).index(i)]] if i in place[m] else None for m in place})
    y = parts.data.table("test").y
    there = {m: np.array([s[m] is not None for s in samples]) for m in ("audio", "visual")}
    assert not all(mask.all() for mask in there.values())
    complete = np.flatnonzero(there["audio"] & there["visual"])
    both = []
    for number, m in enumerate(("audio", "visual")):
        drawn = partners(y, complete, np.flatnonzero(there[m]), [number, len(y)])
        expected: dict[str, list[float]] = {"follows": [], "stays": [], "confidence": [], "accuracy": [], "without": []}
        for i, j in zip(complete, drawn, strict=True):
            p = one_by_one(parts, {**samples[i], m: samples[j][m]}, y[i])
            expected["follows"].append(np.argmax(p) == y[j])
            expected["stays"].append(np.argmax(p) == y[i])
            expected["confidence"].append(p[y[j]])
            both.append(set(np.argsort(p)[-2:]) == {y[i], y[j]})
            expected["accuracy"].append(np.argmax(one_by_one(parts, samples[i], y[i])) == y[i])
            expected["without"].append(np.argmax(one_by_one(parts, {**samples[i], m: None}, y[i])) == y[i])
        for name, values in expected.items():
            assert measured.found[f"{name}/{m}"] == pytest.approx(np.mean(values), abs=1e-5), name
        assert measured.found[f"rows/{m}"] == len(complete)
    assert measured.found["both"] == pytest.approx(np.mean(both))


def test_a_prediction_of_one_modality_follows_it_and_nothing_else(tmp_path: Path) -> None:
    npz = write_features(tmp_path / "features.npz")
    parts = fit(config(npz, tmp_path / "runs", "method=joint", "trainer.max_epochs=3"))
    with torch.no_grad():
        parts.module.net.fusion.linear.weight[:, 8:] = 0.0  # the visual columns
    parts.trainer.test(parts.module, datamodule=parts.data, verbose=False)
    (measured,) = [c for c in parts.trainer.callbacks if isinstance(c, Reliance)]
    accuracy = parts.module.metrics["test"]["accuracy"]
    assert accuracy > 0.8
    assert measured.found["follows/audio"] > 0.8
    assert measured.found["stays/visual"] == measured.found["without/visual"] == pytest.approx(accuracy)


def test_the_result_has_it_and_the_key_switches_it_off(tmp_path: Path) -> None:
    npz = write_features(tmp_path / "features.npz")
    cfg = config(npz, tmp_path / "runs", "method=joint", "trainer.max_epochs=1")
    off = copy.deepcopy(cfg)
    off.callbacks.reliance = None
    off.paths.runs = str(tmp_path / "off")
    assert config_hash(cfg) == config_hash(off)
    folders = [execute(c, "asgml", train).dir for c in (cfg, off)]
    on, without = (json.loads((folder / "result.json").read_text()) for folder in folders)
    for at in ("reliance", "reliance_best"):
        assert {"both", "follows/audio", "without/visual", "rows/audio"} <= set(on[at])
        assert at not in without
    assert on["test"] == without["test"]
    assert "Reliance on each modality" in (folders[0] / "report.html").read_text()
    assert "Reliance on each modality" not in (folders[1] / "report.html").read_text()


def test_the_table_shows_means_over_seeds(tmp_path: Path) -> None:
    for kind, follows in ((JOINT, 0.9), (OGM_GE, 0.6)):
        for seed in range(2):
            found = {"both": 0.1, "follows/audio": follows + 0.02 * seed, "without/visual": 0.5}
            write_run(tmp_path, kind, seed, epochs=1, history=False, more={"reliance_best": found})
    (frames,) = group_runs(read_runs([tmp_path]))
    table = reliance_table(frames)
    assert table is not None
    assert [c.title for c in table.columns] == [
        "configuration", "follows\naudio %", "accuracy\nwithout visual %", "both labels\nin the top 2 %",
    ]  # fmt: skip
    assert [row[1].value for row in table.rows] == [pytest.approx(91.0), pytest.approx(61.0)]
