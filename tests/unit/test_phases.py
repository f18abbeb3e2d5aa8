"""The law held against runs: times from losses, ratios and verdicts by hand, and rows that differ in one thing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgml_runs import write_features
from omegaconf import OmegaConf
from settled import Row, write_study

from asgml.theory.phase_page import REFERENCES, WINDOW, half_loss
from asgml.theory.phase_predictions import PREDICTIONS, Prediction, judged, measured, predicted, shown
from asgml.theory.phases import main
from asgml.tune.options import StudyTree, read_options
from asgml.tune.rows import rows_of
from suite.config.compose import Composer
from suite.report.data import RunRecord, Series


def run_with(losses: Sequence[float], every: int = 3) -> RunRecord:
    steps = np.arange(1, len(losses) + 1) * every
    run = RunRecord(Path("r"), {"classes": list("abcd")}, {})
    run.series = {"train/loss/audio": Series(steps, steps // 10, np.asarray(losses, dtype=float))}
    return run


def test_the_time_is_the_middle_of_the_first_window_whose_mean_is_half_of_guessing() -> None:
    rng = np.random.default_rng(0)
    losses = math.log(4) * np.linspace(1, 0, 60) + 0.05 * rng.standard_normal(60)
    literal = None
    for i in range(len(losses) - WINDOW + 1):
        if sum(losses[i : i + WINDOW]) / WINDOW <= math.log(4) / 2:
            literal = 3 * (i + 1 + WINDOW // 2)
            break
    assert literal is not None
    assert half_loss(run_with(losses), "audio") == literal
    assert half_loss(run_with([1.386] * 60), "audio") is None, "never learned"
    assert half_loss(run_with([0.0] * (WINDOW - 1)), "audio") is None, "too short to tell"
    assert half_loss(run_with(losses), "lips") is None


def times(*steps: float) -> dict[int, float]:
    return dict(enumerate(steps))


def test_verdicts_follow_from_the_interval() -> None:
    def at(*ratios: float) -> str:
        found = measured(k4, {"hard_4": (times(*ratios), {}), "gamma_1": (times(*[1.0] * len(ratios)), {})})
        assert found is not None
        return judged(k4, found)

    k4 = next(p for p in PREDICTIONS if p.low == 1.9)
    assert at(2.5, 2.6, 2.4) == "held"
    assert at(1.1, 1.2, 1.15) == "refuted"
    assert at(5.0, 5.1, 5.2) == "refuted"
    assert at(1.8, 2.1, 2.0) == "undecided"
    assert at(2.5) == "undecided", "one seed has no interval"


def test_a_ratio_has_a_geometric_mean_over_the_seeds_that_got_there() -> None:
    p = Prediction("1", "", lambda rows, seed: rows["a"][0][seed] / rows["b"][0][seed], 0, 1)
    got = measured(p, {"a": ({0: 20.0, 1: 40.0, 2: 9.0}, {}), "b": ({0: 10.0, 1: 10.0, 3: 1.0}, {})})
    assert got is not None
    assert math.exp(got.mean) == pytest.approx(math.sqrt(8))
    assert shown(p, got).endswith(", 2 seeds")
    assert measured(p, {"a": ({}, {})}) is None
    assert predicted([("one", {}, {})]).rows[0][2].text == "no times"


def test_a_delay_beyond_its_limit_is_no_evidence() -> None:
    rows = {"delay_2": (times(60.0, 62.0, 61.0), {}), "gamma_1": (times(20.0, 20.0, 20.0), {})}
    at = next(i for i, p in enumerate(PREDICTIONS) if p.words.startswith("delay 2 alone"))
    assert predicted([("one", rows, {"delay_2": 0.4})]).rows[at][2].text.endswith("refuted")
    assert predicted([("one", rows, {"delay_2": 4.0})]).rows[at][2].text.endswith("unstable, load 4")


@cache
def study() -> tuple[Composer, StudyTree, dict[str, Any]]:
    """Return what composes a run, and the options and rows of the study."""
    options = read_options(Composer("asgml/phases"), ["folder=/data"], StudyTree)
    rows = {r.name: r for r in rows_of(options.rows, False, options.space, ["audio", "lips"])}
    return Composer("asgml"), options, rows


@cache
def composed(row: str) -> dict[str, Any]:
    """Return the tree of a row on the first data set of the study."""
    composer, options, rows = study()
    line = [o for o in options.data_sets["grid_digit"].use if not o.startswith(("paths.", "data.path"))]
    cfg = composer.compose([*line, *rows[row].use])
    tree: Any = OmegaConf.to_container(cfg, resolve=False)
    return tree


def test_a_row_differs_from_its_reference_in_its_mechanism_alone() -> None:
    for reference in REFERENCES:
        mine, theirs = composed(reference.row), composed(reference.of)
        differing = {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
        allowed = {"asgml", "methods"} | ({"optimizer"} if reference.row == "adam" else set())
        assert differing <= allowed, (reference, differing)
        assert differing, f"{reference} is no comparison"


def test_the_page_from_runs_on_disk(tmp_path: Path) -> None:
    fast, slow = (40, 41, 39), (90, 91, 92)
    study = {
        "joint": Row([70, 70, 70], losses={"audio": (60, 60, 60), "visual": (150, 150, 150)}),
        "gamma_1": Row([80, 81, 80], losses={"audio": fast, "visual": slow}),
        "hard_2": Row([80, 81, 80], losses={"audio": [round(1.6 * s) for s in fast], "visual": slow}, load=0.25),
        "hard_2/lr_matched": Row([80, 81, 80], of="hard_2", losses={"audio": (999, 999, 90), "visual": slow}),
    }
    write_study(tmp_path / "runs", "cremad_mini", study, write_features(tmp_path / "f.npz"), study="phases")
    words = ["sets=[cremad_mini]", f"rows=[{','.join(study)}]", "seeds=[0,1,2]"]
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path), *words]) == 0
    text = (tmp_path / "phases.md").read_text(encoding="utf-8")
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in text.splitlines()}
    assert cells["hard_2"][2] == "64"
    assert cells["hard_2"][3].startswith("1.60 [")
    assert cells["hard_2"][5].startswith("1.00")
    assert cells["hard_2"][6] == "0.25"
    assert cells["hard_2/lr_matched"][2] == "90 (1 of 3)"
    assert "interval 2, hard: 1.39 to 2 | 1.60 [1.58, 1.62], 3 seeds: held" in text
    assert "cremad_mini: finished." in text


def test_what_is_no_key_of_the_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "optimizer.lr=1"]) == 2
    assert "not a key of the study" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "python -m asgml.study phases" in capsys.readouterr().err
