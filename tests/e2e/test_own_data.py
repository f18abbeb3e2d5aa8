"""From a user's own files to a report, without a line of Python: a CSV file of media, a folder of texts.

The commands of docs/adding.md are run by tests/config/test_adding.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import media_trees
import pytest
from lw_runs import save_lm

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


def test_from_a_csv_file_of_sounds_pictures_and_notes_to_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, runs = media_trees.table(tmp_path / "mine"), tmp_path / "runs"
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
    line = ["corpus.begin=12", "corpus.rest=8", "corpus.val_share=0.2", "evaluation.passages=2"]
    result, folder = wire(tmp_path, "experiment=text", f"corpus.path={tmp_path}", *line)
    told = capsys.readouterr().out
    assert "corpus: train 20 passage(s) of 5 document(s); val 8 passage(s) of 2 document(s)" in told
    assert "none cut" in told
    assert result["status"] == "finished"
    assert {"wire", "text", "no_context", "first_tokens"} <= set(result["methods"])
    assert len(result["inputs"]) >= 2, "the texts are a part of the run's identity"
    assert (folder / "report.html").stat().st_size > 1000
