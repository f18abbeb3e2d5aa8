"""The page of the feedback system: what it reads of runs, what its words follow from, and that it measures once."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from asgml.feedback.branch_shares import Row, measure_system
from asgml.feedback.metrics.loops import NAMES
from asgml.feedback.page import shares
from asgml.feedback.page.scale import WEIGHTS, figure
from asgml.feedback.page.shares import Kept
from asgml.feedback.page.tables import gains, trained_variants
from asgml.feedback.page.text import cause, causes, page
from asgml.feedback.report import tables as _registered  # noqa: F401
from asgml.feedback.run import PROGRAM
from asgml.feedback.study import WHOLE
from callbacks.run.history import HISTORY
from suite.report import group_runs, read_runs
from suite.runs.launch import plan
from suite.runs.study import label
from suite.statistics import Estimate


def write(folder: Path, name: str, label: str, seed: int, loops: list[float], **more: Any) -> None:
    """Write a finished run whose every metric after loop n is loops[n]."""
    run = folder / name / f"{label}{seed}"
    run.mkdir(parents=True)
    tree = {"program": "asgml.feedback", "name": name, "seed": seed, "label": label, "clip": {"text_norm": 200.0}}
    (run / "config.yaml").write_text(yaml.safe_dump({**tree, "variant": label}))
    scores = {f"{n}/loop{k}": v for n in NAMES for k, v in enumerate(loops, 1)} | {n: loops[-1] for n in NAMES}
    per_class = {"test_best": [{"mean": {}, "wood": dict.fromkeys(NAMES, v)} for v in loops]}
    result = {"program": "asgml.feedback", "experiment": name, "hash": run.name, "seed": seed, "status": "finished",
              "label": label, "test_best": scores, "val_best": scores, "per_class": per_class}  # fmt: skip
    (run / "result.json").write_text(json.dumps(result | more))
    with (run / HISTORY.name).open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(HISTORY.columns)
        for step in range(8):  # two epochs of four steps; the loss rises in `full`, and falls in the second epoch
            falls = -1 if label != "full" else 1
            rows.writerow([step, step // 4, "train/loss/image", 3 + falls * 0.1 * step if step < 4 else 1])
            rows.writerow([step, step // 4, "share/image_adapter", 0.3 if label == "full" else 1.0])


def row(name: str, share: float, size: float, direction: float, context: float = 7.0) -> Row:
    return Row(name, context, Estimate(share, share - 0.1, share + 0.1, 10), 2.0, size, direction, [1.0])


def test_gains_are_paired_by_seed_to_the_base_and_to_the_first_loop(tmp_path):
    for seed, at in enumerate((0.7, 0.72, 0.74)):
        write(tmp_path, "s", "base", seed, [at])
        write(tmp_path, "s", "feedback", seed, [at + 0.02, at, at + 0.05 + 0.001 * seed])
    (frames,) = group_runs(read_runs([tmp_path]), "base")
    known = {c.label: c for c in frames.configurations}
    found = gains(known["base"], [known["feedback"]])
    assert [r[0].text for r in found.rows] == [
        f"feedback: {d}" for d in ("loop 3 − base", "loop 1 − base", "loop 3 − loop 1")
    ]
    assert [r[1].value for r in found.rows] == pytest.approx([5.1, 2.0, 3.1])
    assert found.rows[0][1].text.startswith("+5.10 [+4.")
    assert "on validation, which is of what was trained on: feedback +5.10 [+4." in found.notes[-1]


def test_a_base_that_is_not_above_chance_leaves_nothing_to_compare(tmp_path):
    for seed, at in enumerate((0.45, 0.55, 0.6)):
        write(tmp_path, "s", "base", seed, [at])
        write(tmp_path, "s", "feedback", seed, [at, at])
    (frames,) = group_runs(read_runs([tmp_path]), "base")
    known = {c.label: c for c in frames.configurations}
    assert "not shown to be above chance" in gains(known["base"], [known["feedback"]]).notes[-1]


def test_the_variants_in_training_say_who_was_warned_of_and_whose_loss_rises(tmp_path):
    for seed in range(2):
        warned = {"counters": {"branch_share": {"warned": ["image_adapter"]}}}
        write(tmp_path, "v", "full", seed, [0.5], **(warned if seed else {}))
        write(tmp_path, "v", "norm_matched", seed, [0.7])
    found = {r[0].text: [c.text for c in r] for r in trained_variants(read_runs([tmp_path])).rows}
    assert found["full"][2].startswith("0.30")
    assert found["full"][4] == "1 of 2"
    assert found["norm_matched"][4] == "0 of 2"
    assert (found["full"][7], found["norm_matched"][7]) == ("0 of 2", "2 of 2")  # of the first epoch alone


def test_what_takes_the_gradient_is_told_by_the_controls():
    assert "its size" in cause(row("clip full", 0.3, 0.3, 1.2))
    assert "its direction" in cause(row("clip full", 0.3, 1.0, 0.4))
    assert "both" in cause(row("clip full", 0.3, 0.6, 0.6))
    assert "neither alone" in cause(row("clip full", 0.7, 0.9, 0.9))
    lines = causes([row("clip full", 0.3, 0.3, 1.2), row("clip norm_matched", 0.95, 1, 1), row("film", 0.9, 1, 1)])
    assert len(lines) == 2
    assert lines[0].startswith("`clip full` × 7: 0.300 [0.200, 0.400]")
    assert "0.950" in lines[1]


def test_the_page_shows_what_there_is_and_says_what_was_left_out(tmp_path):
    for seed in range(2):
        write(tmp_path, "s", "base", seed, [0.6])
        write(tmp_path, "s", "feedback", seed, [0.6, 0.61 + 0.01 * seed])
        write(tmp_path, "v", "full", seed, [0.5])
    rows = {"fusions": [row("cross_attention full", 0.4, 0.3, 1.3), row("cross_attention norm_matched", 1.0, 1, 1)]}
    text = page({"surfaces": read_runs([tmp_path], "s")}, read_runs([tmp_path], "v"), [], rows, {"tiles": "no folder"})
    for told in ("2 of 2", "loop 2 − base", "Not run: no folder", "cross_attention full !", "norm 200.0"):
        assert told in text, told


def test_a_share_is_measured_once_for_its_seeds_and_code(tmp_path, monkeypatch):
    asked: list[int] = []

    def one(seeds):
        asked.append(len(seeds))
        return row("clip full", 0.3, 0.3, 1.2)

    path = tmp_path / "shares.json"
    first = Kept(path, range(10)).of("a", one)
    assert Kept(path, range(10)).of("a", one) == first
    assert asked == [10]
    Kept(path, range(12)).of("a", one)
    monkeypatch.setattr(shares, "CODE", shares.CODE[1:])  # other source files
    Kept(path, range(12)).of("a", one)
    assert asked == [10, 12, 12]


def test_a_raw_branch_starves_by_its_weight_and_a_matched_one_cannot():
    build, context = shares.scale.LINES["fusion, raw"]
    raw = [measure_system("raw", build(w), context, range(4)).share.mean for w in (0.03, 1.0)]
    build, context = shares.scale.LINES["fusion, matched"]
    matched = [measure_system("matched", build(w), context, range(4)).share.mean for w in (0.03, 0.1)]
    assert raw[1] < 0.6 < 0.9 < raw[0]
    assert min(matched) > 0.9


def test_the_figure_has_a_line_for_every_system():
    lines = {name: [(w, row(name, 0.5, 0.5, 0.5)) for w in WEIGHTS] for name in shares.scale.LINES}
    drawn = figure(lines)
    assert drawn.count("<polyline") == 2 * len(lines)
    assert all(name in drawn for name in lines)


def test_the_whole_study_runs_every_part_with_its_words_and_leaves_out_absent_data(tmp_path, monkeypatch, capsys):
    begun: list[tuple[str, str, tuple[int, ...], list[str]]] = []

    def run_study(program, study, name, overrides):
        begun.append((program.name, name, study.seeds, list(overrides)))
        study.page([])
        return 3 if name == "feedback_variants" else 0

    monkeypatch.setattr("asgml.feedback.page.whole.run_study", run_study)
    monkeypatch.setattr("asgml.feedback.page.shares.measured_shares", lambda runs: ({}, {}))
    monkeypatch.setattr("asgml.feedback.page.text.page", lambda *parts: str([*parts[0], *parts[-1]]))
    monkeypatch.setattr("asgml.feedback.page.scale.figure", lambda lines: "")
    words = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--runs", "r", "--seeds", "1", "loops=2"]
    assert WHOLE(PROGRAM, words) == 3
    own = ["paths.runs=r", "loops=2"]
    assert begun == [(PROGRAM.name, f"feedback_{n}", (0,), own) for n in ("surfaces", "variants")]
    assert "give its folder with --data FOLDER" in capsys.readouterr().out
    assert (tmp_path / "out" / "feedback.md").read_text() == "['surfaces', 'magnetic_tile', 'grid_digit']"
    (tmp_path / "magnetic_tile").mkdir()
    (tmp_path / "grid_digit").mkdir()
    (tmp_path / "grid_digit" / "grid_digit.npz").touch()
    begun.clear()
    WHOLE(PROGRAM, words)
    tiles, grid = f"data.root={tmp_path / 'magnetic_tile'}", f"data.path={tmp_path / 'grid_digit' / 'grid_digit.npz'}"
    assert begun[1] == (PROGRAM.name, "feedback_magnetic_tile", (0,), ["paths.runs=r", tiles, "loops=2"])
    assert begun[3] == ("asgml", "feedback_grid_digit", (0,), ["paths.runs=r", grid])
    assert WHOLE(PROGRAM, ["--seeds", "0"]) == 2
    assert "--seeds 3" in capsys.readouterr().err


@pytest.mark.parametrize("part", WHOLE.parts, ids=lambda part: part.name)
def test_every_row_of_the_study_is_a_tree_that_is_accepted(part, tmp_path):
    data = [f"{part.names_data}={tmp_path / part.data}"] if part.data else []
    for row in part.study.rows[-1:]:
        given = [f"label='{label(row)}'", *(o for o in row if not o.startswith("label=")), *data]
        argv = [f"experiment={part.study.experiment}", "name=x", *given]
        assert len(plan(part.program.name, argv, None, part.program.dead, part.program.schema).jobs) == 1
