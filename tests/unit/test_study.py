"""A row of a study that stands on another row's run finds the one with its own seed, or says that there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_runs import JOINT, write_run

from suite.errors import UserError
from suite.report import read_runs
from suite.study import Study, jobs, resolved


def test_a_reference_is_the_finished_run_of_the_row_with_the_same_seed(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path, JOINT, seed, label="the first") for seed in (0, 1))
    write_run(tmp_path, JOINT, 2, label="the first", status="failed")
    found = read_runs([tmp_path])
    row = ("label=the second", "+start=<the first>", "factors={audio:2}")
    assert resolved(row, 0, found) == ["label=the second", f"+start={first}", "factors={audio:2}"]
    assert resolved(row, 1, found)[1] == f"+start={second}"
    for missing in (2, 3):
        with pytest.raises(UserError, match=f"the first' with seed {missing}"):
            resolved(row, missing, found)


def test_only_rows_with_a_reference_are_launched_seed_by_seed() -> None:
    plain, refers, fewer = ("lr=1",), ("+start=<1>",), ("seeds=1", "lr=2")
    found = list(jobs(Study("e", (0, 1), (plain, refers, fewer))))
    assert found == [(plain, (0, 1)), (refers, (0,)), (refers, (1,)), (("lr=2",), (1,))]
