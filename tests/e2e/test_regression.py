"""Sentiment-like data as a user has them, three padded sequences and a number, from the command line to the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from asgml.run import Tree, dead, train
from suite.runs.launch import launch

N, T = 240, 8


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text tells more of y than audio and visual do; two have lengths, one a mask; the padding is far away."""
    rng = np.random.default_rng(0)
    y = np.clip(rng.normal(0.2, 1.3, N), -3, 3)
    arrays: dict[str, np.ndarray] = {"y": y, "split": np.repeat([0, 1, 2], [N - 80, 40, 40])}
    for m, noise in {"text": 0.5, "audio": 1.5, "visual": 1.5}.items():
        length = rng.integers(1, T + 1, N)
        x = y[:, None, None] * rng.normal(size=5) + noise * rng.normal(size=(N, T, 5))
        valid = np.arange(T) < length[:, None]
        x[~valid] = 1e3
        arrays[f"x_{m}"] = x.astype(np.float32)
        arrays |= {f"mask_{m}": valid} if m == "text" else {f"length_{m}": length}
    arrays["present_audio"] = np.arange(N) % 6 > 0
    path = tmp_path_factory.mktemp("sentiment") / "set.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def run(npz: Path, runs: Path, *more: str) -> Path:
    """Do a run as `python -m asgml.run` does, and return its directory."""
    launch(
        "asgml", train, dead, schema=Tree,
        argv=["experiment=features", f"data.path={npz}", f"paths.runs={runs}", "trainer.accelerator=cpu",
              "trainer.max_epochs=6", "callbacks.progress=null", "trainer.enable_progress_bar=false", *more],
    )  # fmt: skip
    (found,) = (runs / "features").glob("*/result.json")
    return found.parent


@pytest.mark.parametrize("line", [["method=joint"], ["method=uniform"], ["data.dominant=text"]], ids=" ".join)
def test_it_beats_the_best_constant(npz: Path, tmp_path: Path, line: list[str], capsys) -> None:
    """The last line is the default method, which delays the dominant modality."""
    folder = run(npz, tmp_path, *line)
    assert re.search(r"^epoch 6/6  .*val/mae \d", capsys.readouterr().out, re.MULTILINE)
    result = json.loads((folder / "result.json").read_text())
    with np.load(npz) as data:
        y, split = data["y"], data["split"]
    constant = np.abs(y[split == 2] - np.median(y[split == 0])).mean()
    assert result["test_best"]["mae"] < 0.7 * constant
    assert result["test_best"]["pearson"] > 0.7
    assert {"acc7", "acc2", "f1", "acc2_nonzero", "f1_nonzero", "mae/text", "mae/audio"} <= set(result["test_best"])

    rows = [r.split(",") for r in (folder / "history.csv").read_text().splitlines()]
    mae = [float(r[-1]) for r in rows if r[2] == "val/mae"]
    assert len(mae) == 6
    assert result["val_best"]["mae"] == pytest.approx(min(mae), rel=1e-5), "the best epoch is the one of the lowest MAE"

    with np.load(folder / "predictions_best.npz") as kept:
        assert kept["value"].shape == kept["value_audio"].shape == (80,)
        assert np.abs(kept["value"] - kept["y"])[kept["split"] == 2].mean() == pytest.approx(result["test_best"]["mae"])
        assert np.isnan(kept["value_audio"]).sum() == sum(np.arange(N)[N - 80 :] % 6 == 0)
    report = (folder / result["report"]).read_text()
    assert "Test results of the regression" in report
    assert "validation MAE" in report


def test_what_the_data_do_not_say_is_asked_for_with_keys_that_exist(npz: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        run(npz, tmp_path, "trainer.max_epochs=1")
    told = capsys.readouterr().err
    assert "set asgml.delayed=" in told
    assert "callbacks.probe" not in told, "which the user has not touched"
    run(npz, tmp_path / "again", "trainer.max_epochs=1", "asgml.delayed=[text]")
