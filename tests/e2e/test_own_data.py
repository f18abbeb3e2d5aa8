"""From a user's own files to a report, without a line of Python: a CSV file of media, a folder of texts.

The commands of docs/adding.md are run by tests/config/test_adding.py.
"""

from __future__ import annotations

import csv
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import media_trees
import numpy as np
import pytest
from lw_runs import save_lm

from asgml import predict as predicting
from asgml import run as asgml
from asgml.evaluate import evaluate
from latentwire import run as latentwire
from suite.config.compose import Composer
from suite.runs.known import recall
from suite.runs.launch import launch

DISPLAY = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "callbacks.progress=null"]
TINY_MEDIA = ["data.size=8", "data.store=[8,8]", "data.mels=8", "data.seconds=0.2", "loader.batch_size=8"]


def result_of(runs: Path) -> tuple[dict[str, Any], Path]:
    (path,) = runs.glob("*/*/result.json")
    return json.loads(path.read_text(encoding="utf-8")), path.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, str]:
    """The command of a run on a table, the table, and what the run has told."""
    root = tmp_path_factory.mktemp("own")
    table, runs = media_trees.table(root / "mine"), root / "runs"
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
    with redirect_stdout(io.StringIO()) as told:
        launch("asgml", asgml.train, asgml.dead, schema=asgml.Tree, judge=asgml.judge, argv=line)
    return line, table, told.getvalue()


def runs_of(table: Path) -> Path:
    return table.parents[1] / "runs"


def rewrite(table: Path, path: Path, rows: list[int], *without: str) -> Path:
    """Write some rows of a table, without some columns, to another one."""
    with table.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [name for name in lines[0] if name not in without], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines[row] for row in rows)
    return path


def test_from_a_csv_file_of_sounds_pictures_and_notes_to_a_report(trained: tuple[list[str], Path, str]) -> None:
    line, table, told = trained
    assert "train 16, val 4, test 4 samples, 2 classes (high, low)" in told
    assert "audio: image 1x8x18 of sound files (column audio)" in told
    assert "note: tokens 3 of texts (column note); present in train" in told
    result, folder = result_of(runs_of(table))
    assert result["status"] == "finished"
    assert {f"accuracy/{m}" for m in ("audio", "photo", "note")} < set(result["test"])
    assert "photo" in (folder / "report.html").read_text(encoding="utf-8")
    tree = Composer("asgml").compose(line)
    assert recall("asgml", tree, line) is not None, "the same command is answered from what is kept beside the runs"
    picture = table.with_name("0.jpg").read_bytes()
    table.with_name("0.jpg").write_bytes(table.with_name("1.jpg").read_bytes())
    assert recall("asgml", tree, line) is None, "a picture that is another one is another run"
    table.with_name("0.jpg").write_bytes(picture)


def test_a_finished_run_predicts_and_scores_new_tables(trained: tuple[list[str], Path, str]) -> None:
    """Its test rows, which it has cut itself, from files without labels or splits give its own numbers, bit for bit."""
    table = trained[1]
    result, run = result_of(runs_of(table))
    with np.load(run / "predictions_best.npz") as kept:
        test = kept["split"] == 2
        rows = [int(i.removeprefix("line ")) - 2 for i in kept["id"][test]]
        prob, unimodal = kept["prob"][test], kept["prob_note"][test]
    out = table.with_name("predictions.csv")
    new = rewrite(table, table.with_name("new.csv"), rows, "label")
    assert predicting.main([str(run), "--data", str(new), "-o", str(out)]) == 0
    found = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    for prefix, wanted in (("prob/", prob), ("prob/note/", unimodal)):
        got = [[np.float32(r[f"{prefix}{c}"] or "nan") for c in ("high", "low")] for r in found]
        np.testing.assert_array_equal(np.array(got), wanted)
    labelled = rewrite(table, table.with_name("labelled.csv"), rows)
    for words in ([], ["data.corrupt=missing"], [f"data.path={labelled}"]):
        asked = evaluate(run, words)
        assert (asked["test"], asked["samples"], asked["remarks"]) == (result["test_best"], 4, [])


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
