"""A row of a study that stands on another row's run finds the one with its own seed, or says that there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from synthetic_runs import JOINT, OGM_GE, write_run

from callbacks.errors import UserError
from suite.report import group_runs, read_runs
from suite.runs.study import Study, jobs, resolved


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


def test_rows_that_go_on_from_the_run_of_their_own_seed_are_one_configuration(tmp_path: Path) -> None:
    for seed in (0, 1):
        first = write_run(tmp_path, JOINT, seed, label="the first")
        second = write_run(tmp_path, OGM_GE, seed, label="the second")
        config = yaml.safe_load((second / "config.yaml").read_text())
        (second / "config.yaml").write_text(yaml.safe_dump({**config, "start": str(first)}))
    (frames,) = group_runs(read_runs([tmp_path]))
    assert {c.label: [r.seed for r in c.runs] for c in frames.configurations} == {
        "the first": [0, 1],
        "the second": [0, 1],
    }


def test_only_rows_with_a_reference_are_launched_seed_by_seed() -> None:
    plain, refers = ("lr=1",), ("+start=<1>",)
    found = list(jobs(Study("e", (0, 1), (plain, refers))))
    assert found == [(plain, (0, 1)), (refers, (0,)), (refers, (1,))]
