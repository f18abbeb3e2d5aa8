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


def test_seeds_beyond_those_of_the_study_are_not_in_it(tmp_path: Path) -> None:
    write_study(tmp_path / "runs", "grid_digit", JOINT, write_features(tmp_path / "f.npz"))
    assert "grid_digit<br>3 seeds" in paged(tmp_path, "rows=[joint,uniform]", "seeds=[0,1,2]")


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


def test_a_delay_without_its_factor_that_gains_refutes_what_was_predicted_of_delays(tmp_path: Path) -> None:
    late = {"mode": "staleness", "tau": 4, "compensation": "none"}
    rows = {
        **JOINT,
        "staleness_4_none": Row([82.0, 83.1, 84.0, 85.1], late, load=2.0),
        "staleness_4_none/scale_only": Row(UNIFORM, {**late, "control": "scale_only"}, of="staleness_4_none"),
    }
    write_study(tmp_path / "runs", "grid_digit", rows, write_features(tmp_path / "f.npz"))
    page = paged(tmp_path, "rows=[joint,uniform,staleness_4_none]")
    told = {line.split(" | ")[1]: line.strip(" |").split(" | ")[-1] for line in page.splitlines() if "| 3 |" in line}
    assert told["and a delay, with c or without, is below it at loads above 1"] == "refuted"
    assert told["and never gains more than 1 point over it"] == "refuted"
    assert told["a delay with c is equivalent to c alone (`scale_only`) at loads below 0.2"] == "not tested"


def test_a_row_that_lost_a_seed_is_no_comparison_of_survivors(tmp_path: Path) -> None:
    rows = {**JOINT, "frequency_hard": Row([90, 91.2, 92.1, 93], SKIPS)}
    folder = write_study(tmp_path / "runs", "grid_digit", rows, write_features(tmp_path / "f.npz"))
    assert "It helps in the one comparison" in paged(tmp_path, "rows=[joint,uniform,frequency_hard]")
    tuned = json.loads((folder / "tuned.json").read_text())
    result = folder / tuned["rows"]["frequency_hard"]["runs"]["3"] / "result.json"
    result.write_text(result.read_text().replace('"finished"', '"failed"'))
    page = paged(tmp_path, "rows=[joint,uniform,frequency_hard]")
    assert "It helps" not in page
    assert "`frequency_hard` on grid_digit has no part in the questions: seed 3 ended without a result." in page


def test_a_lost_control_or_reference_leaves_no_verdict(tmp_path: Path) -> None:
    rows = {
        **JOINT,
        "frequency_hard": Row([90, 91.2, 92.1, 93], SKIPS),
        "frequency_hard/lr_matched": Row(UNIFORM, {**SKIPS, "control": "lr_matched"}, of="frequency_hard"),
        "frequency_hard/random_skip": Row(UNIFORM, {**SKIPS, "control": "random_skip"}, of="frequency_hard"),
    }
    folder = write_study(tmp_path / "runs", "grid_digit", rows, write_features(tmp_path / "f.npz"))
    words = "rows=[joint,uniform,frequency_hard]"
    assert "gained on every control" in paged(tmp_path, words)
    tuned = json.loads((folder / "tuned.json").read_text())
    for row, said in (("frequency_hard/random_skip", "no part"), ("uniform", "left out: fewer than 3 seeds")):
        result = folder / tuned["rows"][row]["runs"]["3"] / "result.json"
        result.write_text(result.read_text().replace('"finished"', '"failed"'))
        page = paged(tmp_path, words)
        assert "gained on every control" not in page
        assert said in page


def test_controls_that_are_one_run_are_named_and_few_seeds_are_no_claim(tmp_path: Path) -> None:
    late = {"mode": "staleness", "compensation": "none"}
    rows = dict(JOINT)
    for tau in (2, 4):
        rows[f"staleness_{tau}_none"] = Row([90, 91.2, 92.1, 93], {**late, "tau": tau})
        plain = {**late, "tau": tau, "control": "scale_only"}
        rows[f"staleness_{tau}_none/scale_only"] = Row(UNIFORM, plain, of=f"staleness_{tau}_none")
    write_study(tmp_path / "runs", "grid_digit", rows, write_features(tmp_path / "f.npz"))
    page = paged(tmp_path, "rows=[joint,uniform,staleness_2_none,staleness_4_none]")
    assert "`staleness_2_none/scale_only`, `staleness_4_none/scale_only` are one and the same run." in page
    assert "Against `uniform`, which is tuned: `staleness_4_none` on grid_digit +10.0" in page
    assert "an indication and no claim ([protocols](../protocols.md)): grid_digit (4)." in page
