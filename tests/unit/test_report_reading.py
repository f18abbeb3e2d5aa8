"""What the report reads, and how it labels and groups it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from synthetic_runs import FIVE, JOINT, OGM_GE, STALENESS, as_read, config_of, write_five, write_run

from asgml.report.naming import LABELS, modalities
from callbacks.errors import UserError
from callbacks.run.history import EVENTS, HISTORY
from suite.report import group_runs, read_run, read_runs
from suite.report.data import read_table
from suite.report.html import render
from suite.report.labels import labels


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return write_five(tmp_path_factory.mktemp("finished"))


def test_every_run_is_found_once_from_runs_folder_experiment_folder_and_run_folder(finished):
    everything = read_runs([finished])
    assert len(everything) == 15
    assert len(read_runs([finished / "cremad_mini"])) == 15
    one = everything[0]
    assert [r.hash for r in read_runs([one.path])] == [one.hash]
    assert len(read_runs([finished, one.path])) == 15


def test_a_name_that_no_experiment_has_lists_those_there_are(finished):
    with pytest.raises(UserError, match="cremad_mini"):
        read_runs([finished], name="cremad")


def test_a_folder_without_runs_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no run"):
        read_runs([tmp_path])
    with pytest.raises(UserError, match="no such directory"):
        read_runs([tmp_path / "absent"])


def test_a_deleted_run_directory_still_counts_by_its_ledger_row(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=2)
    write_run(tmp_path, JOINT, 1, epochs=2)
    shutil.rmtree(folder)
    runs = read_runs([tmp_path])
    assert sorted(r.seed for r in runs) == [0, 1]
    gone = next(r for r in runs if r.seed == 0)
    assert gone.finished
    assert "only its ledger row" in gone.notes[0]
    assert "only its ledger row is left" in as_read(render(group_runs(runs)))


@pytest.mark.parametrize(
    ("name", "line", "number"),
    [
        ("history.csv", "7,0,train/loss,high\n", 3),
        ("history.csv", "7,0\n", 3),
        ("timeline.csv", "x,audio,hold,-1,1\n", 3),
    ],
)
def test_a_malformed_line_is_named(tmp_path, name, line, number):
    folder = write_run(tmp_path, JOINT, 0, epochs=1)
    path = folder / name
    head = path.read_text().splitlines(keepends=True)[:2]
    path.write_text("".join(head) + line)
    run = read_run(folder)
    with pytest.raises(UserError, match=rf"{re.escape(name)}:{number}"):
        _ = run.history if name == "history.csv" else run.timeline


def test_an_unknown_action_a_wrong_header_and_a_broken_result_are_refused(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=1)
    (folder / "timeline.csv").write_text("step,modality,action,age,scale\n1,audio,sleep,-1,1.0\n")
    with pytest.raises(UserError, match="sleep"):
        _ = read_run(folder).timeline
    (folder / "history.csv").write_text("step,value\n1,2\n")
    with pytest.raises(UserError, match="step,epoch,name,value"):
        _ = read_run(folder).history
    (folder / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json"):
        read_run(folder)
    (folder / "result.json").write_text(json.dumps({"status": "happy", "seed": 0}))
    with pytest.raises(UserError, match="happy"):
        read_run(folder)


def test_a_folder_in_the_place_of_a_table_is_no_absent_table(tmp_path):
    (tmp_path / HISTORY.name).mkdir()
    with pytest.raises(UserError, match="a folder") as told:
        read_table(tmp_path / HISTORY.name, HISTORY)
    assert told.value.remedy == f"rm -r {tmp_path / HISTORY.name}"


def test_a_line_still_being_written_is_left_out_and_said(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("step,epoch,name,value\n1,0,train/loss,2.0\n2,0,train/lo")
    table, note = read_table(path, HISTORY)
    assert len(table) == 1
    assert "incomplete" in note


def test_modality_names_and_details_survive_csv_quirks(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text('step,epoch,kind,detail\n3,0,NA,"a, ""quoted"" detail"\n')
    table, _ = read_table(path, EVENTS)
    assert table.iloc[0].to_dict() == {"step": 3, "epoch": 0, "kind": "NA", "detail": 'a, "quoted" detail'}


def test_rows_written_twice_by_a_resume_count_once(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=1, per_epoch=4)
    path = folder / "history.csv"
    path.write_text("step,epoch,name,value\n1,0,train/loss,2.0\n2,0,train/loss,9.0\n2,0,train/loss,1.5\n")
    assert list(read_run(folder).series["train/loss"].value) == [2.0, 1.5]


def test_labels_name_what_differs_and_never_the_seed():
    configs = [config_of(kind, seed) for kind in FIVE for seed in (0, 1)]
    assert labels(configs, LABELS)[::2] == [
        "mode=sync",
        "method=ogm_ge",
        "mode=staleness tau=2",
        "mode=frequency",
        "mode=adaptive",
    ]
    assert labels(configs, LABELS)[::2] == labels(configs, LABELS)[1::2]


def test_labels_of_sweeps_targets_and_nested_keys():
    configs = [config_of(STALENESS, 0) for _ in range(3)]
    configs[1]["asgml"]["tau"] = {"audio": 4, "visual": 0}
    configs[2]["optimizer"] = {"_target_": "torch.optim.AdamW", "lr": 1e-4}
    configs[2]["trainer"]["devices"] = 4
    assert labels(configs, LABELS) == [
        "optimizer=SGD tau=2",
        'optimizer=SGD tau={"audio":4,"visual":0}',
        "optimizer=AdamW tau=2",
    ]
    configs = [config_of(OGM_GE, 0) for _ in range(2)]
    configs[1]["methods"] = {"ogm_ge": {**OGM_GE["method"]["ogm_ge"], "alpha": 0.1}}
    assert labels(configs, LABELS) == ["ogm_ge.alpha=0.8", "ogm_ge.alpha=0.1"]
    configs[1]["group_lr"] = {"audio": 1e-4}
    assert "group_lr.audio=0.0001" in labels(configs, LABELS)[1]


def test_a_key_that_a_mode_does_not_read_is_not_told_of_it():
    """One row with an interval per modality, or the boost, makes no other row differ, nor joint training nameless."""
    kinds = [JOINT, STALENESS, {**STALENESS, "mode": "frequency"}, {**STALENESS, "mode": "frequency"}, STALENESS]
    configs = [config_of(kind, 0) for kind in kinds]
    for config, (k, boost) in zip(configs, [(2, False), (2, False), (2, False), (4, False), (2, True)]):
        config["asgml"] |= {"k": k, "boost": {"enabled": boost, "alpha": 0.7 if boost else 0.5}}
    configs[4]["asgml"]["control"] = "scale_only"
    for config in configs[:4]:
        config["asgml"]["control"] = "none"
    found = labels(configs, LABELS)
    assert found == [
        "mode=sync",
        "mode=staleness tau=2 control=none",
        "mode=frequency k=2 control=none",
        "mode=frequency k=4 control=none",
        "mode=staleness tau=2 boost.enabled=true boost.alpha=0.7 control=scale_only",
    ]
    assert [LABELS.is_baseline(text) for text in found] == [True, False, False, False, False]


def test_where_the_data_lie_is_no_difference():
    configs = [config_of(JOINT, seed) for seed in (0, 1)]
    for config, root in zip(configs, ["data", "/elsewhere/data"]):
        config["paths"]["data"] = root
        config["data"]["path"] = f"{root}/cremad_mini"
    assert len(set(labels(configs, LABELS))) == 1
    configs[1]["data"]["path"] = "/elsewhere/data/other"
    assert labels(configs, LABELS) == ["path=<data>/cremad_mini", "path=<data>/other"]


def test_a_given_label_is_used_but_never_pools_different_configurations():
    a, b, c = config_of(JOINT, 0), config_of(JOINT, 1), config_of(STALENESS, 0)
    assert labels([{**a, "label": "base"}, {**b, "label": "base"}, c], LABELS) == [
        "base",
        "base",
        "mode=staleness tau=2",
    ]
    clash = labels([{**a, "label": "base"}, {**c, "label": "base"}], LABELS)
    assert clash[0] != clash[1]
    assert all(text.startswith("base ") for text in clash)


def test_seeds_are_grouped_and_the_neutral_row_is_the_baseline(finished):
    (frames,) = group_runs(read_runs([finished]))
    assert frames.baseline == "mode=sync"
    assert frames.configurations[0].label == "mode=sync"
    assert [[r.seed for r in c.runs] for c in frames.configurations] == [[0, 1, 2]] * 5
    assert modalities(frames) == ["audio", "visual"]


def test_a_baseline_can_be_named_and_a_wrong_one_lists_the_labels(finished):
    runs = read_runs([finished])
    assert group_runs(runs, "method=ogm_ge")[0].base.label == "method=ogm_ge"
    with pytest.raises(UserError, match="method=ogm_ge"):
        group_runs(runs, "method=none such")


def test_a_seed_run_twice_counts_once_and_this_is_said(tmp_path):
    write_run(tmp_path, JOINT, 0, epochs=1)
    other = write_run(tmp_path / "again", JOINT, 0, epochs=1)
    (frames,) = group_runs(read_runs([tmp_path, other]))
    assert [r.seed for r in frames.configurations[0].runs] == [0]
    assert "several runs of seed 0" in frames.notes[0]
