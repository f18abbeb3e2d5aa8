"""The page of faults: costs paired by seed, their sums, and what it says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import JOINT, write_run

from asgml.compare import main
from asgml.faults.page import explanation, find_pairs, page, summed_cost, table, verdict
from asgml.faults.pairs import PAIRS, SETTINGS, rows
from asgml.report.methods_table import method_table
from suite.report import RunRecord, group_runs, read_runs
from suite.statistics import mean_interval

SEEDS = range(3)


def write(folder: Path, costs: dict[str, float], pairs=PAIRS, spread: float = 0.001) -> list[RunRecord]:
    """Write the runs of pairs; a faulty run's accuracy is that of its exact twin less the cost, and noise by seed."""
    rng = np.random.default_rng(0)
    for name in dict.fromkeys(p.settings for p in pairs):
        for seed in SEEDS:
            _run(folder, seed, name, None, 0.8 + 0.01 * seed)
    for pair in pairs:
        for seed in SEEDS:
            fault = None if pair.fault == "gamma 4" else pair.fault
            _run(folder, seed, pair.label, fault, 0.8 + 0.01 * seed - costs[pair.label] + rng.normal(0, spread))
    return read_runs([folder])


def _run(folder: Path, seed: int, label: str, fault: str | None, accuracy: float, load: float = 1.0) -> None:
    tree = {"fault": fault} if fault else {}
    scores = {"accuracy": accuracy, "loss": 1.0 + accuracy}
    path = write_run(
        folder,
        {**JOINT, "level": 0.5},
        seed,
        label=label,
        history=False,
        predictions=False,
        tree={**tree, "label": label, "lr_schedule": {"kind": "cosine"}},
        more={"counters": {"stability": {"worst": {"audio": {"load": load}, "visual": {"load": 0.1}}}}},
    )
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps({**result, "test": scores, "test_best": scores}))


def test_every_label_is_one_row_and_every_faulty_row_names_its_fault():
    labels = [row[0] for row in rows()]
    assert len(set(labels)) == len(labels) == len(SETTINGS) + len(PAIRS)
    for pair in PAIRS:
        (row,) = (row for row in rows() if row[0] == f"label={pair.label}")
        assert pair.fault == "gamma 4" or f"+fault={pair.fault}" in row
        assert pair.fault in pair.label


def test_costs_are_paired_by_seed_and_summed_seed_by_seed(tmp_path):
    costs = {p.label: 0.01 * (i + 1) for i, p in enumerate(PAIRS)}
    found = find_pairs(write(tmp_path, costs))
    assert [f.pair for f in found] == list(PAIRS)
    for f in found:
        assert np.mean(list(f.costs("test").values())) == pytest.approx(-100 * costs[f.pair.label], abs=0.2)
    some = [f for f in found if f.pair.row == "staleness"]
    per_seed = [sum(f.costs("test")[seed] for f in some) for seed in SEEDS]
    assert summed_cost(some, "test") == mean_interval(per_seed)
    cells = {c.text for c in table(found).rows[0]}
    assert {"off_by_one", "staleness, tau 1", "3"} <= cells


def test_a_delay_beyond_the_limit_is_told(tmp_path):
    pair = next(p for p in PAIRS if p.label == "gamma 4 (staleness, tau 2)")
    _run(tmp_path, 0, pair.settings, None, 0.9, load=1.5)
    _run(tmp_path, 0, pair.label, None, 0.8, load=4.5)
    (note,) = (n for n in table(find_pairs(read_runs([tmp_path]))).notes if "limit of stability" in n)
    assert note.startswith("gamma 4 (staleness, tau 2): at its worst the delay stood at 4.5 times the limit")
    assert "the exact code stood at 1.5" in note


def test_what_is_missing_is_named_and_nothing_is_concluded(tmp_path):
    some = [p for p in PAIRS if p.fault == "off_by_one"]
    text = page(write(tmp_path, {p.label: 0.0 for p in some}, some))
    assert "Not every fault that concerns this row has been run" in text
    assert f"Not run: {'; '.join(p.label for p in PAIRS if p not in some)}." in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([-3.0, -3.1, -2.9], "may explain"),
        ([3.0, 3.1, 2.9], "do not explain"),
        ([-3.0, 3.0, 1.0], "not shown to explain"),
        ([-3.0], "is open"),
    ],
)
def test_the_verdict_follows_the_interval(values, said):
    assert said in verdict(mean_interval(values))


def test_the_paragraph_takes_the_sum_from_the_published_difference(tmp_path):
    costs = {p.label: 0.02 if p.row == "frequency" else 0.0 for p in PAIRS}
    found = find_pairs(write(tmp_path, costs, spread=1e-6))
    text = explanation("frequency", found)
    assert "60.5 ± 1.2 against 60.3 ± 0.7 of the baseline, a difference of +0.2 ± 1.4" in text
    assert "All faults that it can have had (`gamma 4`, `in_phase`, `zeroed_gradients`): −6.00" in text
    assert "The errors of the code among them (`in_phase`, `zeroed_gradients`): −4.00" in text
    assert "the difference would be +6.2" in text
    assert "**may explain**" in text


def test_a_comparison_leaves_faulty_runs_out_and_says_so(tmp_path, capsys):
    write(tmp_path, {p.label: 0.1 for p in PAIRS[:2]}, PAIRS[:2])
    (frames,) = group_runs(read_runs([tmp_path]))
    assert {c.label for c in frames.configurations} == {"staleness, tau 1", "staleness, tau 2"}
    told = "Left out of this experiment: 6 runs with fault=off_by_one."
    assert told in method_table(frames).notes
    (every,) = group_runs(read_runs([tmp_path]), everything=True)
    assert len(every.configurations) == 4


def test_faulty_runs_alone_are_no_comparison(tmp_path, capsys):
    _run(tmp_path, 0, "off_by_one (x)", "off_by_one", 0.5)
    assert main([str(tmp_path)]) == 2
    assert "replayed faults only" in capsys.readouterr().err
