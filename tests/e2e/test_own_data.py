"""From a user's own files to a report, without a line of Python: a CSV file of media, a folder of texts, questions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lw_runs import save_lm
from PIL import Image

from asgml import run as asgml
from latentwire import run as latentwire
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
    launch("asgml", asgml.train, asgml.dead, schema=asgml.Tree, judge=asgml.judge, argv=line)
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


# -- texts and questions ----------------------------------------------------------------------------------------------

TINY_WIRE = [
    "encoder.width=16",
    "encoder.max_tokens=200",
    "encoder.refiner_layers=1",
    "injector.width=16",
    "wire.d_z=8",
    "wire.slots=3",
    "wire.measured_texts=4",
    "loader.batch_size=3",
    "loader.steps_per_epoch=4",
    "loader.eval_passages=4",
    "loader.eval_batch_size=4",
    "evaluation.passages=3",
    "evaluation.n_boot=40",
    "trainer.max_epochs=1",
    "callbacks.audit.within=4",
    "lr_schedule.warmup_steps=0",
]


def wire(folder: Path, *line: str) -> tuple[dict[str, Any], Path]:
    """Do a tiny run of the wire on a tiny random model and return its result."""
    argv = [*line, f"hf.source={save_lm(folder)}", "hf.is_chat=false", *TINY_WIRE, *DISPLAY]
    argv += [f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}"]
    launch("latentwire", latentwire.task, latentwire.dead, schema=latentwire.Tree, judge=latentwire.judge, argv=argv)
    return result_of(folder / "runs")


def test_from_a_folder_of_texts_to_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(8):
        (tmp_path / f"{i}.txt").write_text(f"So it goes {i} and on. " * 14, encoding="utf-8")
    result, folder = wire(
        tmp_path, "experiment=text", f"corpus.path={tmp_path}", "corpus.begin=12", "corpus.rest=8", "corpus.val_share=0.2",
        "evaluation.passages=2",
    )  # fmt: skip
    told = capsys.readouterr().out
    assert "corpus: train 20 passage(s) of 5 document(s); val 8 passage(s) of 2 document(s)" in told
    assert "none cut" in told
    assert result["status"] == "finished"
    assert {"wire", "text", "no_context", "first_tokens"} <= set(result["methods"])
    assert len(result["inputs"]) >= 2, "the texts are a part of the run's identity"
    assert (folder / "report.html").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["jsonl", "qa"])
def test_from_lines_to_a_report(corpus: str, tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    asked = [{"question": "Where does Ann live?", "answers": ["Roma", "Rome"]}]
    lines = [
        {"text": f"So it goes {i} and on. " * 9}
        if corpus == "jsonl"
        else {"context": f"Ann {i} is in Rome.", "questions": asked}
        for i in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    line = (
        ["experiment=text", "corpus=jsonl", "corpus.begin=12", "corpus.rest=8"]
        if corpus == "jsonl"
        else ["experiment=qa"]
    )
    result, folder = wire(tmp_path, *line, f"corpus.path={path}")
    assert result["status"] == "finished"
    assert (folder / "report.html").stat().st_size > 1000
