"""What is read of a run is what it wrote: the result of another run, or bytes that are no text, are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from callbacks.errors import UserError
from callbacks.run.history import HISTORY
from suite.report.data import read_table
from suite.runs.ledger import write_json
from suite.runs.provenance import RESULT, read_result

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
