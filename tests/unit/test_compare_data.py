"""Tables of methods and their data: one table per data set, no debugging runs in it, and what needs no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_runs import JOINT, OGM_GE, STALENESS, write_run

from asgml.compare import main
from asgml.report.methods_table import method_table
from asgml.report.results import result_table
from suite.report.__main__ import main as report
from suite.report.data import read_runs
from suite.report.grouping import group_runs
from suite.report.html import render


def features(path: str, **more: Any) -> dict[str, Any]:
    return {"data": {"_target_": "asgml.data.Features", "path": path, "standardize": True, **more}}


def inputs(path: str, content: str, **more: str) -> dict[str, Any]:
    """Return what a result records of its files."""
    entries = {"data.path": (path, content), **{role: ("x", sha) for role, sha in more.items()}}
    return {"inputs": {role: {"path": p, "size": 1, "sha256": sha} for role, (p, sha) in entries.items()}}


def write(folder: Path, kind: dict[str, Any], path: str, label: str = "", **more: Any) -> None:
    settings = {"epochs": 1, "history": False, "predictions": False, "experiment": "features", **more}
    write_run(folder, kind, 0, label=label or None, tree=features(path) | settings.pop("tree", {}), **settings)


def frames_of(folder: Path) -> list[Any]:
    return group_runs(read_runs([folder]))


def test_two_files_of_one_experiment_have_a_table_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("/sets/mosi.npz", "/sets/grid.npz"):
        for kind in (JOINT, OGM_GE):
            write(tmp_path, kind, path)
    found = frames_of(tmp_path)
    assert {f.part for f in found} == {"data.path=/sets/mosi.npz", "data.path=/sets/grid.npz"}
    for frames in found:
        table = method_table(frames)
        assert frames.part in table.title
        assert frames.baseline == table.rows[0][0].text
        assert not any("No joint run" in note for note in table.notes)
        assert all(len(c.runs) == 1 for c in frames.configurations)
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Methods on features (") == 2
    assert "No joint run" not in printed
    page = render(found)
    assert "features (data.path=/sets/mosi.npz): summary" in page
    assert "features (data.path=/sets/grid.npz): summary" in page


def test_a_file_with_other_content_is_another_data_set_and_a_moved_one_is_not(tmp_path: Path) -> None:
    write(tmp_path, JOINT, "/sets/a.npz", more=inputs("/sets/a.npz", "aaaa"))
    write(tmp_path, OGM_GE, "/elsewhere/a.npz", more=inputs("/elsewhere/a.npz", "aaaa"))
    (frames,) = frames_of(tmp_path)
    assert [c.label for c in frames.configurations] == ["method=none", "method=ogm_ge"]
    write(tmp_path, STALENESS, "/sets/a.npz", more=inputs("/sets/a.npz", "bbbb"))
    assert {f.part for f in frames_of(tmp_path)} == {"data.path=a.npz [aaaa]", "data.path=a.npz [bbbb]"}


def test_a_run_that_failed_before_all_files_were_recorded_stays_with_its_data(tmp_path: Path) -> None:
    write(tmp_path, JOINT, "/sets/a", more=inputs("/sets/a", "aaaa", **{"data.path/shard": "cccc"}))
    write(tmp_path, OGM_GE, "/sets/a", status="failed", more=inputs("/sets/a", "aaaa"))
    (frames,) = frames_of(tmp_path)
    assert len(frames.configurations) == 2


@pytest.mark.parametrize(
    ("tree", "tables"),
    [
        (features("/sets/a.npz", dominant="audio"), 1),
        (features("/sets/a.npz", kinds={"audio": "image"}), 2),
        ({"loader": {"batch_size": 64, "workers": 0, "missing": {"audio": 0.0}}}, 1),
        ({"loader": {"batch_size": 64, "workers": 0, "missing": {"audio": 0.5}}}, 2),
        ({"trainer": {"max_epochs": 40}}, 1),
    ],
)
def test_what_changes_the_data_makes_a_table_and_nothing_else_does(
    tree: dict[str, Any], tables: int, tmp_path: Path
) -> None:
    write(tmp_path, JOINT, "/sets/a.npz")
    write(tmp_path, OGM_GE, "/sets/a.npz", tree=tree)
    assert len(frames_of(tmp_path)) == tables


def test_debugging_runs_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, JOINT, "/sets/a.npz")
    for debug in ("overfit", "one_step"):
        write(tmp_path, OGM_GE, "/sets/a.npz", tree={"debug": debug})
    (frames,) = frames_of(tmp_path)
    assert [run.config.get("debug") for run in frames.runs] == [None]
    told = "Left out of this experiment: 2 runs with debug=one_step, debug=overfit."
    assert told in method_table(frames).notes
    assert told in result_table(frames).notes


def test_debugging_runs_alone_have_a_report_and_no_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, JOINT, "/sets/a.npz", tree={"debug": "overfit"})
    (frames,) = frames_of(tmp_path)
    assert len(frames.runs) == 1
    assert main([str(tmp_path)]) == 2
    assert "debugging runs only" in capsys.readouterr().err


def rows_of(table: Any) -> dict[str, list[str]]:
    return {row[0].text: [c.text for c in row] for row in table.rows}


@pytest.mark.parametrize("make", [method_table, result_table])
def test_every_table_ends_with_the_majority_class_and_chance(make: Any, tmp_path: Path) -> None:
    write(tmp_path, JOINT, "/sets/a.npz", more={"class_counts": {"test": [100, 250, 150]}})
    table = make(frames_of(tmp_path)[0])
    titles = [c.title for c in table.columns]
    last = titles.index("accuracy %\nlast epoch")
    rows = rows_of(table)
    assert list(rows)[-2:] == ["majority class", "chance"]
    assert rows["majority class"][last] == "50.00"
    assert rows["chance"][last] == "33.33"
    assert not any("majority class" in note for note in table.notes)


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ([900, 100], "No configuration is above the majority class (90.00 % of 1000 test samples):"),
        ([58, 42], "No configuration is above the majority class (58.00 % of 100 test samples) by more than"),
        ([500, 500], None),
    ],
)
def test_a_table_that_is_no_better_than_one_answer_says_so_first(
    counts: list[int], told: str | None, tmp_path: Path
) -> None:
    for kind in (JOINT, OGM_GE):  # about 0.60 and 0.63
        write(tmp_path, kind, "/sets/a.npz", more={"class_counts": {"test": counts}})
    notes = method_table(frames_of(tmp_path)[0]).notes
    if told is None:
        assert not any("majority" in note for note in notes)
    else:
        assert notes[0].startswith(told)


def test_old_runs_are_counted_from_their_predictions(tmp_path: Path) -> None:
    write(tmp_path, JOINT, "/sets/a.npz", predictions=True)
    table = result_table(frames_of(tmp_path)[0])
    y = np.random.default_rng(0).integers(6, size=90)[30:]
    majority = rows_of(table)["majority class"]
    assert f"{100 * np.bincount(y).max() / 60:.2f}" in majority


def test_runs_with_other_test_labels_are_no_table(tmp_path: Path) -> None:
    write(tmp_path, JOINT, "/sets/a.npz", more={"class_counts": {"test": [10, 25]}})
    write(tmp_path, OGM_GE, "/sets/a.npz", more={"class_counts": {"test": [25, 10]}})
    table = method_table(frames_of(tmp_path)[0])
    assert table.notes[0].startswith("The runs were tested on different labels")
    assert "chance" not in rows_of(table)


def test_printed_tables_of_several_data_sets_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("/sets/a.npz", "/sets/b.npz"):
        write(tmp_path, JOINT, path)
    assert report([str(tmp_path), "--table", "markdown"]) == 0
    headings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("## ")]
    assert sorted(headings) == ["## features (data.path=/sets/a.npz)", "## features (data.path=/sets/b.npz)"]
