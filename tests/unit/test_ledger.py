"""The ledger keeps every row, whatever happens while it is written."""

from __future__ import annotations

import json
import math
import multiprocessing
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from callbacks.files.sealed import read_json
from suite.runs.ledger import Ledger, jsonable, write_json


def _append_many(path: Path, writer: int) -> None:
    for i in range(20):
        Ledger(path).append({"hash": f"{writer}-{i}", "filler": "x" * 5000})


def test_rows_come_back_and_the_newest_of_a_hash_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "runs" / "ledger.jsonl")
    assert ledger.rows() == []
    assert not ledger.finished("a")
    for row in (
        {"hash": "a", "status": "failed"},
        {"hash": "b", "status": "stopped"},
        {"hash": "a", "status": "finished"},
    ):
        ledger.append(row)
    assert [r["hash"] for r in ledger.rows()] == ["a", "b", "a"]
    assert ledger.latest()["a"]["status"] == "finished"
    assert ledger.finished("a")
    assert not ledger.finished("b")
    ledger.append({"hash": "a", "status": "failed"})
    assert not ledger.finished("a"), "an older success does not hide a newer failure"


def test_a_torn_last_line_is_reported_and_the_next_row_survives(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append({"hash": "a", "status": "finished"})
    with open(ledger.path, "ab") as file:
        file.write('{"hash": "b", "name": "caf\u00e9'.encode()[:-1])  # a crash in the middle of a character
    with pytest.warns(UserWarning, match="line 2"):
        assert [r["hash"] for r in ledger.rows()] == ["a"]
    ledger.append({"hash": "c", "status": "finished"})
    with pytest.warns(UserWarning, match="line 2"):
        assert [r["hash"] for r in ledger.rows()] == ["a", "c"]


def test_processes_append_at_once_without_mixing_lines(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(path, w)) for w in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len({r["hash"] for r in Ledger(path).rows()}) == 80


def test_every_line_is_strict_json(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    row = {
        "nan": math.nan,
        "inf": [math.inf, -math.inf],
        "np": np.float32(0.5),
        "t": torch.tensor([1, 2]),
        "p": Path("x"),
    }
    ledger.append({"hash": "a", "val": row})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    read = json.loads(ledger.path.read_text(), parse_constant=refuse)
    assert read["val"] == {"nan": None, "inf": ["Infinity", "-Infinity"], "np": 0.5, "t": [1, 2], "p": "x"}


def test_a_value_without_json_form_is_named() -> None:
    with pytest.raises(TypeError, match=r"val\.model"):
        jsonable({"val": {"model": object()}})


def test_table_is_flat_with_one_line_per_run(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for seed in (0, 1):
        for status in ("failed", "finished"):
            row = {
                "hash": f"h{seed}",
                "status": status,
                "config": {"asgml": {"tau": 2}},
                "val": {"accuracy/audio": math.inf},
            }
            ledger.append(row)
    table = ledger.table()
    assert list(table["hash"]) == ["h0", "h1"]
    assert set(table["status"]) == {"finished"}
    assert list(table["config.asgml.tau"]) == [2, 2]
    assert table["val.accuracy/audio"].dtype == float


def test_write_json_replaces_in_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"status": "running"})
    with pytest.raises(TypeError):
        write_json(path, {"status": "finished", "bad": object()})
    assert read_json(path, "", "") == {"status": "running"}, "a failed write leaves the old file"
    write_json(path, {"status": "finished"})
    assert read_json(path, "", "") == {"status": "finished"}
    assert "sha256" in json.loads(path.read_text())
