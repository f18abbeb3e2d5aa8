"""What is read of a run is what it wrote: the result of another run, or bytes that are no text, are refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from callbacks.errors import UserError
from callbacks.run.history import HISTORY
from suite.report.data import RunRecord, read_run, read_table
from suite.runs.ledger import write_json
from suite.runs.provenance import RESULT, read_result
from suite.runs.written import WRITTEN, written

OWN, OTHER = "0123456789ab", "ba9876543210"


def test_the_result_of_another_run_is_refused_by_its_hash(tmp_path: Path) -> None:
    write_json(tmp_path / OWN / RESULT, {"hash": OTHER, "status": "finished"})
    with pytest.raises(UserError, match=f"another run, {OTHER}"):
        read_result(tmp_path / OWN)
    (tmp_path / "link").symlink_to(tmp_path / OWN)
    with pytest.raises(UserError, match=f"that of run {OWN}"):
        read_result(tmp_path / "link")


def test_a_run_may_be_kept_under_any_name_that_is_no_hash(tmp_path: Path) -> None:
    for name in ("best wire", f"{OWN}.old-1", OTHER):
        write_json(tmp_path / name / RESULT, {"hash": OTHER, "status": "finished"})
        assert read_result(tmp_path / name)["hash"] == OTHER


def test_a_table_that_is_no_text_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / HISTORY.name
    path.write_bytes(HISTORY.header.encode() + b"1,0,loss,\xff\n")
    with pytest.raises(UserError, match=HISTORY.name):
        read_table(path, HISTORY)


def finished(folder: Path, kind: str) -> RunRecord:
    """A finished run with a history, as its command leaves it."""
    folder.mkdir()
    (folder / HISTORY.name).write_text(f"{HISTORY.header}1,0,loss,{kind}\n")
    write_json(folder / RESULT, {"hash": folder.name, "status": "finished", WRITTEN: written(folder)})
    return read_run(folder)


def test_the_table_of_another_run_is_refused(tmp_path: Path) -> None:
    """Copied between two finished runs it would be intact, and say something else."""
    run, other = finished(tmp_path / OWN, "1.0"), finished(tmp_path / OTHER, "2.0")
    assert run.history is not None
    shutil.copy(other.path / HISTORY.name, run.path)
    with pytest.raises(UserError, match="not what the run wrote"):
        _ = read_run(run.path).history
    (run.path / HISTORY.name).unlink()  # the remedy
    assert read_run(run.path).history is None


def test_a_run_under_way_has_nothing_to_compare_with(tmp_path: Path) -> None:
    run = finished(tmp_path / OWN, "1.0")
    write_json(run.path / RESULT, {**run.result, "status": "running"})
    with (run.path / HISTORY.name).open("a") as file:
        file.write("2,0,loss,0.5\n")
    history = read_run(run.path).history
    assert history is not None
    assert len(history) == 2


def test_a_folder_in_the_place_of_a_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / RESULT).mkdir()
    with pytest.raises(UserError, match="rm -r"):
        read_result(tmp_path)
