"""What a page of the study may conclude: rows that are not of it, unequal budgets, and controls that skip as well."""

from __future__ import annotations

import json
from pathlib import Path

from asgml_runs import write_features
from settled import Row, write_study

from asgml.tune.page.__main__ import main

UNIFORM = (80.0, 81.0, 82.0, 83.0)
SKIPS = {"mode": "frequency", "masking": "hard", "k": 2}
JOINT = {"joint": Row([75, 75, 77, 77]), "uniform": Row(UNIFORM)}


def paged(folder: Path, *words: str) -> str:
    """Return the page of the study below a folder."""
    given = ["sets=[grid_digit]", "seeds=[0,1,2,3]", *words]
    assert main([str(folder / "runs"), "--out", str(folder), *given]) == 0
    return (folder / "asgml.md").read_text(encoding="utf-8")


def test_a_row_that_is_not_of_the_study_keeps_nothing_from_being_finished(tmp_path: Path) -> None:
    rows = {**JOINT, "gamma_1": Row(())}  # tuned by an earlier, larger study, and never evaluated
    write_study(tmp_path / "runs", "grid_digit", rows, write_features(tmp_path / "f.npz"))
    assert "Finished: grid_digit." in paged(tmp_path, "rows=[joint,uniform]")
    assert "3 of 3 rows tuned; 0 of 4 seeds" in paged(tmp_path, "rows=[joint,uniform,gamma_1]")


def test_unequal_budgets_and_points_at_the_edge_of_the_trials_are_said(tmp_path: Path) -> None:
    path = write_study(tmp_path / "runs", "grid_digit", JOINT, write_features(tmp_path / "f.npz")) / "tuned.json"
    assert "not tuned equally" not in paged(tmp_path, "rows=[joint,uniform]")
    tuned = json.loads(path.read_text())
    trial = tuned["rows"]["joint"]["trials"][0]
    tuned["rows"]["joint"]["trials"] = [{**trial, "values": {"optimizer.lr": lr}} for lr in (0.1, 0.2, 0.4)]
    path.write_text(json.dumps(tuned))
    page = paged(tmp_path, "rows=[joint,uniform]")
    assert "these rows are not tuned equally (3: joint; 8: uniform)" in page
    assert "so a wider range might do better: joint (lr)." in page


def test_the_equal_of_a_run_that_skips_as_much_may_still_gain_by_skipping(tmp_path: Path) -> None:
    skip = {**SKIPS, "control": "random_skip"}
    rows = {
        **JOINT,
        "frequency_hard": Row([82.0, 83.1, 84.0, 85.0], SKIPS),
        "frequency_hard/lr_matched": Row([82, 78, 85, 80], {**SKIPS, "control": "lr_matched"}, of="frequency_hard"),
        "frequency_hard/random_skip": Row([82.1, 83.0, 84.1, 84.9], skip, of="frequency_hard"),
    }
    write_study(tmp_path / "runs", "grid_digit", rows, write_features(tmp_path / "f.npz"))
    page = paged(tmp_path, "rows=[joint,uniform,frequency_hard]")
    assert "Of one row, 0 do no more than some synchronous control" in page
    assert "**Not shown: no row is above every one of its controls.**" in page
