"""A prepared shard in which anything has changed is refused at its first use; an unchanged one is hashed once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from damage import DAMAGE, Damage, flip
from test_media_shards import N, Origin

from asgml.data import shard_rows, shards
from asgml.data.shard_rows import CHUNK, STAMP, TICK_NS, Shard
from asgml.data.shards import stale_rows, write_shard
from callbacks.errors import UserError

ROW = 24  # bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shard(Origin().job(tmp_path))


def nan_block(path: Path) -> None:
    data = np.load(path, mmap_mode="r+")
    data[100:120] = np.nan
    data.flush()


def swapped_rows(path: Path) -> None:
    data = np.load(path, mmap_mode="r+")
    data[[3, 250]] = data[[250, 3]]
    data.flush()


def a_bit_of_the_last_row(path: Path) -> None:
    flip(path, path.stat().st_size - 1, 7)


def swapped_ids(path: Path) -> None:
    path.write_text(path.read_text().replace('"clip7"', '"X"').replace('"clip8"', '"clip7"').replace('"X"', '"clip8"'))


ROWS: dict[str, Damage] = {
    **DAMAGE,
    "NaN": nan_block,
    "swapped rows": swapped_rows,
    "last row": a_bit_of_the_last_row,
}


@pytest.mark.parametrize("damage", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("used", [False, True])
def test_changed_rows(damage: Damage, used: bool, folder: Path) -> None:
    if used:
        Shard(folder).select(["clip1"])
    damage(folder / "data.npy")
    with pytest.raises(UserError, match="damaged shard") as told:
        Shard(folder).select(["clip1"])
    assert f"rm -r {folder}" in told.value.remedy
    assert len(str(told.value).splitlines()) == 4


@pytest.mark.parametrize("damage", [*DAMAGE.values(), swapped_ids], ids=[*DAMAGE, "swapped ids"])
def test_a_changed_index(damage: Damage, folder: Path) -> None:
    damage(folder / "index.json")
    with pytest.raises(UserError, match="damaged shard"):
        Shard(folder)


def test_an_error_names_the_rows(folder: Path) -> None:
    offset = (folder / "data.npy").stat().st_size - N * ROW
    flip(folder / "data.npy", offset + 130 * ROW)
    with pytest.raises(UserError, match=r"rows 128 to 191 \(clip128 … clip191\)"):
        Shard(folder).verify()


def test_an_unchanged_shard_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    real = shard_rows.digest
    monkeypatch.setattr(shard_rows, "digest", lambda content: hashed.append(len(content)) or real(content))
    monkeypatch.setattr(shard_rows.time, "time_ns", lambda: os.stat(folder / "data.npy").st_ctime_ns + 2 * TICK_NS)
    Shard(folder).select(["clip1"])
    assert sum(hashed) == N * ROW
    hashed.clear()
    Shard(folder).select(["clip1"])
    assert hashed == []
    os.utime(folder / "data.npy")
    Shard(folder).select(["clip1"])
    assert sum(hashed) == N * ROW
    hashed.clear()
    (folder / STAMP).write_text("{")
    Shard(folder).select(["clip1"])
    assert sum(hashed) == N * ROW


def test_a_shard_of_an_earlier_release_is_read_and_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = json.loads((folder / "index.json").read_text())
    old = {k: v for k, v in index.items() if k not in ("chunks", "sha256")}
    (folder / "index.json").write_text(json.dumps(old))
    rows, _ = Shard(folder).select(["clip9"])
    assert rows[0][0, 0] == 9
    assert "no SHA-256" in caplog.text


def test_renewed_rows_are_hashed_and_damage_beside_them_is_not(tmp_path: Path) -> None:
    origin = Origin()
    folder = write_shard(origin.job(tmp_path))
    origin.shift[70] = 1000
    write_shard(origin.job(tmp_path))
    assert Shard(folder).select(["clip70"])[0][0][0, 0] == 1070
    offset = (folder / "data.npy").stat().st_size - N * ROW
    flip(folder / "data.npy", offset + 80 * ROW)
    origin.shift[71] = 1000
    with pytest.raises(UserError, match="damage in rows 64 to 127"):
        write_shard(origin.job(tmp_path))


def test_an_interrupted_renewal_is_refused_and_finished_by_the_next(tmp_path: Path) -> None:
    origin = Origin()
    folder = write_shard(origin.job(tmp_path))
    origin.shift[70] = origin.shift[299] = 1000
    write, calls = shards._write_bytes, []

    def dies(file: object, block: np.ndarray) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(file, block)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_write_bytes", dies)
        with pytest.raises(KeyboardInterrupt):
            write_shard(origin.job(tmp_path))
    with pytest.raises(UserError, match="the renewal of rows 64 to 127"):
        Shard(folder).verify()
    assert set(stale_rows(origin.job(tmp_path))) == {*range(64, 64 + CHUNK), *range(256, N)}
    write_shard(origin.job(tmp_path))
    assert np.asarray(Shard(folder).select(["clip70", "clip299"])[0])[:, 0, 0].tolist() == [1070, 1299]


def test_a_damaged_entry_of_the_journal_costs_work_and_never_content(tmp_path: Path) -> None:
    origin = Origin()
    origin.stop_at = 3 * CHUNK
    with pytest.raises(KeyboardInterrupt):
        write_shard(origin.job(tmp_path))
    journal = tmp_path / "audio-abc.partial" / "journal.jsonl"
    first = journal.read_bytes().index(b"\n")
    flip(journal, first + 40, 1)
    origin.stop_at, origin.decoded = None, []
    folder = write_shard(origin.job(tmp_path))
    assert min(origin.decoded) == 0
    Shard(folder).verify()
