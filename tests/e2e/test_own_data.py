"""From a user's own files to a report, without a line of Python: a CSV file of media, a folder of texts, questions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from asgml.run import Tree, dead, judge, train
from suite.config.compose import Composer
from suite.runs.known import recall
from suite.runs.launch import launch

DISPLAY = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "callbacks.progress=null"]
TINY_MEDIA = ["data.size=8", "data.store=[8,8]", "data.mels=8", "data.seconds=0.2", "loader.batch_size=8"]


def result_of(runs: Path) -> tuple[dict[str, Any], Path]:
    (path,) = runs.glob("*/*/result.json")
    return json.loads(path.read_text(encoding="utf-8")), path.parent


def media_csv(root: Path, n: int = 24) -> Path:
    """Tones whose pitch, pictures whose brightness and notes whose words are the class."""
    root.mkdir()
    rng = np.random.default_rng(0)
    rows: list[dict[str, str]] = []
    for i in range(n):
        label, time = i % 2, np.arange(1600) / 8000
        wave = 0.3 * np.sin(2 * np.pi * 300 * 2**label * time) + 0.02 * rng.standard_normal(1600)
        soundfile.write(root / f"{i}.wav", wave.astype(np.float32), 8000)
        pixels = 60 + 120 * label + rng.integers(0, 40, (10, 10, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{i}.jpg")
        note = ("a low tone", "a high one")[label] if i % 5 else ""
        rows.append({"audio": f"{i}.wav", "photo": f"{i}.jpg", "note": note, "label": ("low", "high")[label]})
    with (root / "mine.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root / "mine.csv"


def test_from_a_csv_file_of_sounds_pictures_and_notes_to_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, runs = media_csv(tmp_path / "mine"), tmp_path / "runs"
    line = [
        "experiment=table",
        f"data.path={table}",
        *TINY_MEDIA,
        *DISPLAY,
        "trainer.max_epochs=1",
        "method=uniform",
        "callbacks.probe=null",
        f"paths.runs={runs}",
    ]
    launch("asgml", train, dead, schema=Tree, judge=judge, argv=line)
    told = capsys.readouterr().out
    assert "train 16, val 4, test 4 samples, 2 classes (high, low)" in told
    assert "audio: image 1x8x18 of sound files (column audio)" in told
    assert "note: tokens 3 of texts (column note); present in train" in told
    result, folder = result_of(runs)
    assert result["status"] == "finished"
    assert {f"accuracy/{m}" for m in ("audio", "photo", "note")} < set(result["test"])
    assert "photo" in (folder / "report.html").read_text(encoding="utf-8")
    tree = Composer("asgml").compose(line)
    assert recall("asgml", tree, line) is not None, "the same command is answered from what is kept beside the runs"
    (table.parent / "0.jpg").write_bytes((table.parent / "1.jpg").read_bytes())
    assert recall("asgml", tree, line) is None, "a picture that is another one is another run"
