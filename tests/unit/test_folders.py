"""A folder that takes no files is refused before the work whose fruits would be lost, with the key that names it."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import numpy as np
import pytest
from lw_runs import config, prepare

from asgml import predict as predicting
from asgml.data.shards import ShardJob, write_shard
from asgml.feedback import predict as scoring
from asgml.feedback.data.generator import write_surfaces
from callbacks.errors import UserError
from callbacks.files import folders
from callbacks.files.folders import make_folder
from suite.runs.command import Main
from suite.runs.exported import new_folder
from suite.runs.surroundings import make_folders


def places(root: Path) -> list[Path]:
    """Return a file, what would lie below one, and on Linux a folder that takes no files from anybody."""
    (file := root / "file").touch()
    return [file, file / "deeper", *([Path("/proc")] if sys.platform == "linux" else [])]


def test_it_is_made_with_its_parents_and_left_empty(tmp_path: Path) -> None:
    assert list(make_folder(tmp_path / "a" / "b", "key", "remedy").iterdir()) == []


def test_what_takes_no_files_is_refused(tmp_path: Path) -> None:
    for place in places(tmp_path):
        with pytest.raises(UserError) as error:
            make_folder(place, "key", "what to type")
        assert (error.value.where, error.value.remedy) == ("key", "what to type")
        with pytest.raises(UserError, match=r"set paths.runs=runs"):
            make_folders([place])


def test_a_full_disk_is_no_matter_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(dir: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders.tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match="No space left"):
        make_folder(tmp_path, "key", "remedy")


def test_shards_and_surfaces(tmp_path: Path) -> None:
    for place in places(tmp_path):
        job = ShardJob(place / "shard", ["a"], (1,), "float32", lambda i: np.zeros(1), lambda i: None, {})
        with pytest.raises(UserError, match=r"set data.prepared=FOLDER"):
            write_shard(job)
        with pytest.raises(UserError, match=r"set paths.data=data"):
            write_surfaces(place / "surfaces", ["wood"], size=16, train=0, good=1, per_defect=1)


def fill(folder: Path) -> None:
    """Write a part of an export, and fail."""
    (folder / "part").mkdir()
    (folder / "part" / "file").touch()
    raise ZeroDivisionError


def test_what_leaves_a_run(tmp_path: Path) -> None:
    for place in places(tmp_path)[1:]:
        with pytest.raises(UserError, match="give -o"), new_folder(place / "export"):
            raise AssertionError("nothing is written")
    (kept := tmp_path / "kept").mkdir()
    with pytest.raises(ZeroDivisionError), new_folder(kept):
        fill(kept)
    assert list(kept.iterdir()) == []


@pytest.mark.parametrize("command", [predicting.main, scoring.main])
def test_predictions_below_a_file(command: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = places(tmp_path)[1]
    assert command(["no run is read", "--data", "x", "-o", str(out)]) == UserError.EXIT_CODE
    assert f"-o {out}" in capsys.readouterr().err


def test_a_cache_of_teachers_is_refused_before_they_are_asked(tmp_path: Path) -> None:
    cfg = config(tmp_path, "objective=[answer_kd]", "teacher.cache=true", f"paths.cache={places(tmp_path)[0]}")
    with pytest.raises(UserError) as error:
        prepare(cfg)
    assert error.value.where.startswith("paths.cache=")
