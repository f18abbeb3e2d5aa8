"""Shards: kill, restart, full disk, changed files."""

from __future__ import annotations

import copy
import csv
import errno
import json
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from asgml.data import shards
from asgml.data.media import MediaError
from asgml.data.shard_rows import Shard, ShardRows
from asgml.data.shards import ShardJob, write_shard
from callbacks.errors import UserError

N = 300  # five chunks, the last one short


class Origin:
    """Stands for source files: row i holds `i + shift[i]`; counts what is decoded."""

    def __init__(self, bad: tuple[int, ...] = ()):
        self.bad, self.shift, self.decoded = set(bad), dict.fromkeys(range(N), 0), []
        self.stop_at: int | None = None

    def decode(self, row: int) -> np.ndarray:
        if row == self.stop_at:
            raise KeyboardInterrupt
        self.decoded.append(row)
        if row in self.bad:
            raise MediaError(f"{row}.wav", "zero bytes")
        return np.full((2, 3), row + self.shift[row], dtype=np.float32)

    def signature(self, row: int) -> list[int] | None:
        return [0 if row in self.bad else 24, self.shift[row]]

    def job(self, folder: Path) -> ShardJob:
        ids = [f"clip{i}" for i in range(N)]
        return ShardJob(folder / "audio-abc", ids, (2, 3), "float32", self.decode, self.signature, {"rate": 8000})


def content(folder: Path) -> np.ndarray:
    return np.load(folder / "audio-abc/data.npy")


def test_a_shard_is_what_was_decoded_and_lists_what_was_not(tmp_path):
    origin = Origin(bad=(5, 299))
    folder = write_shard(origin.job(tmp_path), workers=3)
    expected = np.arange(N, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)
    expected[[5, 299]] = 0
    np.testing.assert_array_equal(content(tmp_path), expected)
    assert sorted(p.name for p in folder.iterdir()) == ["corrupt.csv", "data.npy", "index.json"]
    assert list(csv.reader((folder / "corrupt.csv").open())) == [
        ["path", "reason"],
        ["5.wav", "zero bytes"],
        ["299.wav", "zero bytes"],
    ]
    assert json.loads((folder / "index.json").read_text())["params"] == {"rate": 8000}
    rows, usable = Shard(folder).select(["clip299", "clip7", "clip5"])
    assert usable.tolist() == [False, True, False]
    assert rows.shape == (3, 2, 3)


def test_rows_are_gathered_in_the_order_asked_for_and_travel_as_a_path(tmp_path):
    folder = write_shard(Origin().job(tmp_path))
    rows = ShardRows(folder / "data.npy", np.array([9, 2, 200, 2]))
    assert rows[np.array([3, 0, 2])][:, 0, 0].tolist() == [2, 9, 200]
    assert rows[1][0, 0] == 2
    assert rows[2, 1, 1] == 200
    assert rows[:2].shape == (2, 2, 3)
    assert rows[np.array([], dtype=np.int64)].shape == (0, 2, 3)
    assert np.asarray(rows)[:, 0, 0].tolist() == [9, 2, 200, 2]
    assert len(ForkingPickler.dumps(rows)) < 2000  # what a loader process receives
    np.testing.assert_array_equal(copy.deepcopy(rows)[:], rows[:])


def test_an_interrupted_preparation_continues_where_it_stopped(tmp_path):
    origin = Origin(bad=(10,))
    origin.stop_at = 2 * shards.CHUNK + 7
    with pytest.raises(KeyboardInterrupt):
        write_shard(origin.job(tmp_path))
    assert not (tmp_path / "audio-abc").exists()
    origin.stop_at, origin.decoded = None, []
    folder = write_shard(origin.job(tmp_path))
    assert min(origin.decoded) == 2 * shards.CHUNK
    assert content(tmp_path)[:, 0, 0].tolist() == [0 if i == 10 else i for i in range(N)]
    assert [row for row, _, _ in Shard(folder).bad] == [10]
    origin.decoded = []
    write_shard(origin.job(tmp_path))
    assert origin.decoded == []


def _write_until_killed(folder: Path) -> None:
    origin = Origin()
    decode = origin.decode

    def deadly(row: int) -> np.ndarray:
        if row == 3 * shards.CHUNK + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(row)

    origin.decode = deadly  # type: ignore[method-assign]
    write_shard(origin.job(folder))


def test_sigkill_loses_one_chunk(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_write_until_killed, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    origin = Origin()
    write_shard(origin.job(tmp_path))
    assert min(origin.decoded) == 3 * shards.CHUNK
    assert content(tmp_path)[:, 0, 0].tolist() == list(range(N))


@pytest.mark.parametrize(("tear", "kept"), [("half a line", 2), ("garbage", 3), ("another list of clips", 0)])
def test_a_torn_journal_costs_work_and_never_content(tmp_path, tear, kept):
    origin = Origin()
    origin.stop_at = 3 * shards.CHUNK
    with pytest.raises(KeyboardInterrupt):
        write_shard(origin.job(tmp_path))
    journal, data = tmp_path / "audio-abc.partial/journal.jsonl", tmp_path / "audio-abc.partial/data.npy"
    text = journal.read_text()
    if tear == "half a line":
        journal.write_text(text[:-20])
        with data.open("r+b") as file:  # its chunk may be torn as well
            file.seek(-10, 2)
            file.write(b"\xff" * 10)
    elif tear == "garbage":
        journal.write_text(text + "\x00\x00\x00\n")
    else:
        journal.write_text(text.replace('"rows": 300', '"rows": 299'))
    origin.stop_at, origin.decoded = None, []
    write_shard(origin.job(tmp_path))
    assert min(origin.decoded) == kept * shards.CHUNK
    assert content(tmp_path)[:, 0, 0].tolist() == list(range(N))


def test_a_disk_that_fills_up_is_told_and_nothing_is_lost(tmp_path, monkeypatch):
    origin, write, calls = Origin(), shards._write_bytes, []

    def full(file, block):
        calls.append(1)
        if len(calls) == 3:
            file.write(block.tobytes()[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, block)

    monkeypatch.setattr(shards, "_write_bytes", full)
    with pytest.raises(UserError) as error:
        write_shard(origin.job(tmp_path))
    text = str(error.value)
    assert str(tmp_path) in text
    assert "No space left" in text
    assert "bytes are free" in text
    assert "data.prepared" in text
    origin.decoded = []
    write_shard(origin.job(tmp_path))
    assert min(origin.decoded) == 2 * shards.CHUNK
    assert content(tmp_path)[:, 0, 0].tolist() == list(range(N))


def test_of_two_that_prepare_at_once_one_decodes_and_the_other_finds_it_done(tmp_path):
    """Also with the lock taken by two processes of which each has its own file open, as two threads have here."""
    origins = [Origin(), Origin()]
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda origin: write_shard(origin.job(tmp_path)), origins))
    assert sorted(len(origin.decoded) for origin in origins) == [0, N]
    assert content(tmp_path)[:, 0, 0].tolist() == list(range(N))


def test_too_small_a_disk_is_told_before_anything_is_decoded(tmp_path, monkeypatch):
    origin = Origin()
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 500, 500))
    with pytest.raises(UserError, match="500 bytes are free") as error:
        write_shard(origin.job(tmp_path))
    assert str(N * 24 + shards._SPARE) in error.value.expected
    assert origin.decoded == []


def test_other_write_errors_are_not_called_a_full_disk(tmp_path, monkeypatch):
    def broken(file, block):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(shards, "_write_bytes", broken)
    with pytest.raises(OSError, match="Input/output"):
        write_shard(Origin().job(tmp_path))


def test_files_replaced_later_are_decoded_again_and_only_these(tmp_path):
    origin = Origin(bad=(3, 4))
    folder = write_shard(origin.job(tmp_path))
    origin.bad, origin.decoded = {4}, []
    origin.shift[70] = 1000
    write_shard(origin.job(tmp_path))
    assert sorted(origin.decoded) == [3, 70]
    assert content(tmp_path)[[3, 4, 70], 0, 0].tolist() == [3, 0, 1070]
    assert [row for row, _, _ in Shard(folder).bad] == [4]
    assert "3.wav" not in (folder / "corrupt.csv").read_text()


@pytest.mark.parametrize("damage", ["short data", "no index", "another index"])
def test_a_damaged_shard_is_refused(tmp_path, damage):
    folder = write_shard(Origin().job(tmp_path))
    if damage == "short data":
        os.truncate(folder / "data.npy", 500)
    elif damage == "no index":
        (folder / "index.json").unlink()
    else:
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps({**index, "ids": index["ids"][1:]}))
    with pytest.raises(UserError, match="damaged shard"):
        Shard(folder)
