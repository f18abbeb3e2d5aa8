"""What a report says first, in words: what has been shown, what has not, and what could have been seen."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats
from synthetic_runs import JOINT, OGM_GE, STALENESS, as_read, write_run

from suite.report import group_runs, read_runs, single_report
from suite.report.__main__ import main
from suite.report.html import render
from suite.report.statements import MARKS, Statement, spoken
from suite.report.summary import detectable, summary
from suite.report.tables import Table
from suite.report.verdict import verdict
from suite.statistics import paired_t


def write(runs: Path, kind: dict, accuracies: list[float], label: str) -> None:
    """Write one run per accuracy: of the test at the best validation epoch, and of all else."""
    for seed, accuracy in enumerate(accuracies):
        numbers = {"loss": 1.0, "accuracy": accuracy}
        more = {"val": numbers, "test": numbers, "val_best": numbers, "test_best": numbers}
        folder = write_run(runs, kind, seed, history=False, predictions=False, label=label)
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(result | more))


def said(runs: Path, baseline: str | None = None) -> list[Statement]:
    (frames,) = group_runs(read_runs([runs]), baseline)
    return verdict(frames)


A = [0.71, 0.64, 0.69, 0.66, 0.70]
B = [0.70, 0.67, 0.66, 0.65, 0.71]


def test_the_smallest_detectable_difference_is_found_in_four_of_five_repetitions():
    """Literally: how often would a paired t test of so many seeds find a true difference of that size?"""
    reach = detectable(paired_t(A, B))
    d = np.subtract(A, B)
    spread = np.sqrt(((d - d.mean()) ** 2).sum() / 4)
    rng = np.random.default_rng(0)
    found = stats.ttest_1samp(rng.normal(reach, spread, size=(40_000, 5)), 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_the_smallest_detectable_difference_is_that_of_the_noncentral_t_and_knows_nothing_of_the_observed_one():
    def missing(delta: float) -> float:
        nc, critical = delta / (np.std(np.subtract(A, B), ddof=1) / np.sqrt(5)), stats.t.ppf(0.975, 4)
        return stats.nct.sf(critical, 4, nc) + stats.nct.cdf(-critical, 4, nc) - 0.8

    expected = optimize.brentq(missing, 0.01, 0.08)
    assert detectable(paired_t(A, B)) == pytest.approx(expected, rel=1e-3)
    assert detectable(paired_t(np.add(A, 0.3), B)) == pytest.approx(expected, rel=1e-3)
    assert detectable(paired_t([0.7], [0.6])) is None
    assert detectable(paired_t([0.7, 0.8], [0.6, 0.7])) is None  # the differences do not vary


def test_a_null_result_is_said_with_its_interval_and_what_could_have_been_seen(tmp_path):
    write(tmp_path, STALENESS, A, "staleness")
    write(tmp_path, JOINT, B, "joint")
    first, note = said(tmp_path)
    ends = stats.ttest_rel(A, B).confidence_interval()
    shown = [float(x) for x in re.findall(r"[-+]?\d+\.\d", first.text.replace("−", "-"))[:3]]
    assert first.kind == "open"
    assert first.text.startswith("With 5 seeds no difference between staleness and joint is shown: ")
    assert shown == pytest.approx([100 * np.subtract(A, B).mean(), 100 * ends.low, 100 * ends.high], abs=0.051)
    assert f"detectable is {100 * detectable(paired_t(A, B)):.1f} points" in first.text
    assert "80 % power" in note.text
    assert "does not say that there is none" in note.text


def test_what_two_seeds_cannot_show_is_no_number_beyond_all_points(tmp_path):
    write(tmp_path, STALENESS, [0.9, 0.5], "staleness")
    write(tmp_path, JOINT, [0.6, 0.7], "joint")
    assert 100 * detectable(paired_t([0.9, 0.5], [0.6, 0.7])) > 100
    assert "the smallest difference detectable is more than 100 points" in said(tmp_path)[0].text
    (frames,) = group_runs(read_runs([tmp_path]))
    assert "that is more than 100 percentage points" in str(summary(frames)[0].notes)


def test_differences_over_fewer_seeds_than_the_means_say_so(tmp_path):
    for folder, more in (("equal", []), ("unequal", [0.9])):
        write(tmp_path / folder, STALENESS, [0.9, 0.5, 0.7, *more], "staleness")
        write(tmp_path / folder, JOINT, [0.6, 0.7, 0.8], "joint")
        notes = summary(*group_runs(read_runs([tmp_path / folder])))[0].notes
        assert any("unequal seeds" in note for note in notes) == bool(more)


def test_a_difference_is_better_or_worse_only_after_holm_as_the_table_has_it(tmp_path):
    write(tmp_path, JOINT, B, "joint")
    rows = {"good": (0.05, 0.004), "bad": (-0.05, 0.004), "doubtful": (0.02, 0.018), "maybe": (-0.021, 0.018)}
    for i, (name, (gain, noise)) in enumerate(rows.items()):
        values = [b + gain + noise * z for b, z in zip(B, (1.0, -1.0, 0.5, -0.5, 0.0), strict=True)]
        write(tmp_path, {**STALENESS, "tau": i}, values, name)
    (frames,) = group_runs(read_runs([tmp_path]))
    table = summary(frames)[0]
    titles = [c.title for c in table.columns]
    alone, held = ({r[0].text: r[titles.index(t)].value for r in table.rows[1:5]} for t in ("p\npaired t", "p\nHolm"))
    told = {s.kind: s.text for s in said(tmp_path)}
    assert "good is better than joint: +5.0 [" in told["better"]
    assert f"p = {held['good']:.2g} after Holm over 4 tests" in told["better"]
    assert "bad is worse than joint" in told["worse"]
    for name in ("doubtful", "maybe"):
        assert alone[name] < 0.05 < held[name]
        assert f"p = {alone[name]:.2g} alone, {held[name]:.2g} after Holm" in told["open"]


def test_many_null_results_are_one_sentence_that_names_them(tmp_path):
    write(tmp_path, JOINT, B, "joint")
    rng = np.random.default_rng(1)
    for i in range(8):
        write(tmp_path, {**STALENESS, "tau": i}, [b + x for b, x in zip(B, rng.normal(0, 0.02, 5))], f"row{i}")
    open_ones = [s for s in said(tmp_path) if s.kind == "open"]
    assert len(open_ones) == 1
    assert open_ones[0].text.count("row") == 6
    assert "and 2 more (see the table)" in open_ones[0].text
    assert open_ones[0].text.count("detectable from") == 6


def test_one_seed_is_never_called_better(tmp_path):
    write(tmp_path, JOINT, [0.5], "joint")
    write(tmp_path, STALENESS, [0.9], "staleness")
    (only,) = said(tmp_path)
    assert only.kind == "note"
    assert "With 1 seed staleness lies +40.0 points" in only.text
    assert "luck of the seed" in only.text


def test_rows_that_differ_in_no_seed_are_said_to_be_the_same(tmp_path):
    write(tmp_path, JOINT, B, "joint")
    write(tmp_path, STALENESS, B, "staleness")
    (only,) = said(tmp_path)
    assert only.kind == "same"
    assert "have the same test accuracy at the best validation epoch in every one" in only.text


def test_a_method_is_judged_against_its_control_as_well(tmp_path):
    write(tmp_path, JOINT, B, "joint")
    write(tmp_path, STALENESS, [b + 0.05 + z for b, z in zip(B, (0.01, 0, 0, 0.01, 0))], "asgml_staleness")
    write(tmp_path, OGM_GE, [b + 0.05 - z for b, z in zip(B, (0.01, 0, 0, 0.01, 0))], "control_scale_only")
    told = [s for s in said(tmp_path) if "asgml_staleness and control_scale_only" in s.text]
    assert [s.kind for s in told] == ["open"]


def test_without_a_baseline_the_verdict_says_how_to_name_one(tmp_path):
    for name, kind in (("a", OGM_GE), ("b", STALENESS)):
        write(tmp_path, kind, A, name)
    assert "--baseline" in said(tmp_path)[0].text
    assert said(tmp_path, "a")[0].kind == "same"


def test_runs_that_did_not_finish_are_said_first(tmp_path):
    write(tmp_path, JOINT, A, "joint")
    write_run(tmp_path, JOINT, 7, status="failed", history=False, label="joint")
    first = said(tmp_path)[0]
    assert first.kind == "failed"
    assert "Only 5 of 6 runs have finished (1 failed)" in first.text


def test_the_page_begins_with_the_verdict_then_health_then_tables(tmp_path):
    write(tmp_path, STALENESS, A, "staleness")
    write(tmp_path, JOINT, B, "joint")
    page = as_read(render(group_runs(read_runs([tmp_path]))))
    order = [
        page.index(word) for word in ("Verdict", "no difference between staleness and joint", "Health", "Δ accuracy")
    ]
    assert order == sorted(order)


def test_the_health_box_says_that_nothing_was_found_only_where_nothing_was(tmp_path):
    folder = write_run(tmp_path / "well", JOINT, 0, epochs=1)
    assert "the monitors of the runs found nothing" in as_read(single_report(folder).read_text())
    folder = write_run(tmp_path / "ill", JOINT, 0, epochs=1)
    result = json.loads((folder / "result.json").read_text())
    result["counters"] |= {"vetoed": 3, "committed": 10}
    (folder / "result.json").write_text(json.dumps(result))
    page = as_read(single_report(folder).read_text())
    assert "found nothing" not in page
    assert page.count("steps in which nothing was applied") == 1


def test_the_terminal_says_the_verdict_before_the_tables(tmp_path, capsys):
    write(tmp_path, STALENESS, A, "staleness")
    write(tmp_path, JOINT, B, "joint")
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.index("○ With 5 seeds no difference") < printed.index("Test results")


def test_every_kind_has_its_own_sign_so_that_colour_is_never_alone():
    assert len({mark for mark, _ in MARKS.values()}) == len(MARKS)
    assert len(spoken([Statement("a", "failed"), Statement("b")]).renderables) == 2


def test_the_summary_starts_with_what_is_wrong(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=1)
    result = json.loads((folder / "result.json").read_text())
    result["counters"] |= {"vetoed": 3, "committed": 10}
    (folder / "result.json").write_text(json.dumps(result))
    (frames,) = group_runs(read_runs([tmp_path]))
    tables: list[Table] = summary(frames)
    assert tables[0].title == "Health"
