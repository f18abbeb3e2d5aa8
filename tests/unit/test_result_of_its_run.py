"""A folder that is called by a run's hash holds the result of that run: another one is refused, wherever it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from callbacks.errors import UserError
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
