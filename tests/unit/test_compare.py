"""The table of all methods: its numbers, its order, its three files, and that the sweep leaves no method out."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats
from synthetic_runs import FREQUENCY, JOINT, OGM_GE, STALENESS, write_run

from asgml.compare import main
from asgml.report.comparison import save
from asgml.report.methods_table import BELOW, control_table, method_table
from asgml.run import Tree, dead
from callbacks.errors import UserError
from suite.report.data import read_runs
from suite.report.grouping import group_runs
from suite.runs.launch import plan

ROOT = Path(__file__).resolve().parents[2]
LABELS = {"joint": JOINT, "ogm_ge": OGM_GE, "asgml_staleness": STALENESS, "control_scale_only": FREQUENCY}
SEEDS = 5


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for label, kind in LABELS.items():
        for seed in range(SEEDS if label != "ogm_ge" else SEEDS + 1):
            status = "failed" if (label, seed) == ("ogm_ge", SEEDS) else "finished"
            write_run(folder, kind, seed, label=label, status=status, epochs=3, predictions=False)
    return folder


def table(folder: Path) -> Any:
    frames = group_runs(read_runs([folder]))
    assert len(frames) == 1
    return method_table(frames[0], ["agm", "joint", "ogm_ge"])


def accuracies(folder: Path, label: str, split: str) -> dict[int, float]:
    out = {}
    for path in folder.glob("*/*/result.json"):
        result = json.loads(path.read_text())
        if result["label"] == label and result["status"] == "finished":
            out[result["seed"]] = 100 * result[split]["accuracy"]
    return out


def outside(a: dict[int, float], b: dict[int, float], margin: float) -> float:
    """The larger p of the two one-sided tests."""
    differences = [a[s] - b[s] for s in range(SEEDS)]
    low = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    return max(low, stats.ttest_1samp(differences, margin, alternative="less").pvalue)


def cells(found: Any, label: str) -> dict[str, Any]:
    row = next(r for r in found.rows if r[0].text == label)
    return {c.title.replace("\n", " "): cell for c, cell in zip(found.columns, row, strict=True)}


@pytest.mark.parametrize(("split", "at"), [("test", "last epoch"), ("test_best", "best val. epoch")])
def test_means_intervals_and_tests_are_those_of_the_ledgers_numbers(runs: Path, split: str, at: str) -> None:
    found = table(runs)
    joint = accuracies(runs, "joint", split)
    pvalues = {}
    for label in LABELS:
        values = accuracies(runs, label, split)
        assert set(values) == set(range(SEEDS))
        mean = sum(values.values()) / SEEDS
        sd = math.sqrt(sum((v - mean) ** 2 for v in values.values()) / (SEEDS - 1))
        half = stats.t.ppf(0.975, SEEDS - 1) * sd / math.sqrt(SEEDS)
        shown = cells(found, label)
        assert shown[f"accuracy % {at}"].text == f"{mean:.2f} ± {half:.2f}"
        if label == "joint":
            assert shown[f"Δ {at} [95 %]"].text == "baseline"
            continue
        test = stats.ttest_rel([values[s] for s in range(SEEDS)], [joint[s] for s in range(SEEDS)])
        assert shown[f"p {at}"].value == pytest.approx(test.pvalue)
        assert shown[f"Δ {at} [95 %]"].value == pytest.approx(mean - sum(joint.values()) / SEEDS)
        assert shown[f"p within ±1 {at}"].value == pytest.approx(outside(values, joint, 1.0))
        pvalues[label] = test.pvalue
    worst = 0.0
    for i, (label, p) in enumerate(sorted(pvalues.items(), key=lambda item: item[1])):
        worst = max(worst, min(1.0, (len(pvalues) - i) * p))
        assert cells(found, label)[f"p Holm {at}"].value == pytest.approx(worst)


def test_cost_is_relative_to_joint_per_seed(runs: Path) -> None:
    found = table(runs)
    assert cells(found, "joint")["step time / joint"].value == 1.0
    assert 1.1 < cells(found, "ogm_ge")["step time / joint"].value < 1.4  # 8 ms more than about 31
    assert cells(found, "joint")["peak memory MB"].value == 612.25


def test_the_baseline_is_first_and_a_control_below_its_method(runs: Path) -> None:
    found = table(runs)
    assert [r[0].text for r in found.rows] == ["joint", "asgml_staleness", "control_scale_only", "ogm_ge"]
    assert found.strong == {0}
    assert cells(found, "ogm_ge")["seeds"].text == "5 of 6 (1 failed)"
    assert any(note == "Not run here: agm." for note in found.notes)
    assert any("sign test" in note for note in found.notes)


def test_an_asynchronous_row_is_tested_against_its_control(runs: Path) -> None:
    found = control_table(group_runs(read_runs([runs]))[0])
    assert found is not None
    assert [[c.text for c in row[:2]] for row in found.rows] == [["asgml_staleness", "control_scale_only"]]
    for split, at in (("test", "last epoch"), ("test_best", "best val. epoch")):
        mine, control = (accuracies(runs, label, split) for label in ("asgml_staleness", "control_scale_only"))
        differences = [mine[s] - control[s] for s in range(SEEDS)]
        shown = cells(found, "asgml_staleness")
        assert shown[f"Δ {at} [95 %]"].value == pytest.approx(sum(differences) / SEEDS)
        expected = stats.ttest_1samp(differences, 0.0).pvalue
        assert shown[f"p {at}"].value == shown[f"p Holm {at}"].value == pytest.approx(expected)
        assert shown[f"p within ±1 {at}"].value == pytest.approx(outside(mine, control, 1.0))


def test_rows_within_a_wide_margin_are_named_as_equivalent(runs: Path, tmp_path: Path) -> None:
    frames = group_runs(read_runs([runs]))[0]
    joint = accuracies(runs, "joint", "test_best")
    for found, control in ((method_table(frames, margin=8.0), "joint"), (control_table(frames, 8.0), None)):
        assert found is not None
        (verdict,) = [note for note in found.notes if note.startswith("Equivalent within ±8 points")]
        label, other = ("ogm_ge", joint) if control else ("asgml_staleness", None)
        other = other or accuracies(runs, "control_scale_only", "test_best")
        p = outside(accuracies(runs, label, "test_best"), other, 8.0)
        assert p < 0.05
        assert f"{label} to {control or 'control_scale_only'} (p {p:.3g})" in verdict
    narrow = method_table(frames, margin=0.1).notes
    assert any(note.endswith("shown for no row.") for note in narrow)
    assert main([str(runs), "--margin", "8", "--out", str(tmp_path)]) == 0
    assert "p within ±8" in (tmp_path / "methods.md").read_text()


def test_two_seeds_have_no_test_of_equivalence(tmp_path: Path) -> None:
    for seed in range(2):
        for label, kind in (("joint", JOINT), ("ogm_ge", OGM_GE)):
            write_run(tmp_path, kind, seed, label=label, epochs=2, predictions=False)
    found = table(tmp_path)
    assert not any("within" in c.title for c in found.columns)
    assert not any("within" in note for note in found.notes)


def test_a_row_that_is_the_baseline_under_another_name_is_told(tmp_path: Path) -> None:
    for seed in range(2):
        for label, kind in (("joint", JOINT), ("relearn", JOINT), ("ogm_ge", OGM_GE)):
            write_run(tmp_path / label, kind, seed, label=label, epochs=2, predictions=False)
    (frames,) = group_runs(read_runs(sorted(tmp_path.iterdir())))
    told = [note for note in method_table(frames).notes if "nothing of it acted" in note]
    assert len(told) == 1
    assert told[0].startswith("relearn: ")


def test_step_times_can_be_left_out(runs: Path) -> None:
    found = method_table(group_runs(read_runs([runs]))[0], times=False)
    assert [c.title for c in found.columns][-2:] == ["p within ±1\nbest val. epoch", "peak memory\nMB"]
    assert not any("Step time" in note for note in found.notes)
    assert all(len(row) == len(found.columns) for row in found.rows)


def test_the_three_files_say_the_same(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs), "--name", "cremad_mini", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    shown = table(runs)
    markdown, tex, page = ((tmp_path / f"methods.{end}").read_text() for end in ("md", "tex", "html"))
    for row in shown.rows:
        assert row[0].text in printed
        assert row[0].text in markdown
        assert row[0].text in page.replace("<wbr>", "")
        assert row[0].text.replace("_", "\\_") in tex
        mean = re.match(r"[\d.]+", row[2].text)
        assert mean is not None
        assert all(mean[0] in text for text in (markdown, tex, page))
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert not list(tmp_path.glob("*.part"))


def test_without_joint_there_are_no_differences(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, OGM_GE, seed, label="ogm_ge", epochs=2, predictions=False)
        write_run(tmp_path, STALENESS, seed, label="asgml_staleness", epochs=2, predictions=False)
    found = table(tmp_path)
    assert not any(c.title.startswith("Δ") for c in found.columns)
    assert any("No joint run" in note for note in found.notes)
    assert [p.name for p in save([found], tmp_path / "out")] == ["methods.md", "methods.tex", "methods.html"]


def test_bad_input_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == UserError.EXIT_CODE
    assert "no such directory" in capsys.readouterr().err
    assert main([str(tmp_path), "--margin", "0"]) == UserError.EXIT_CODE
    assert "--margin 1" in capsys.readouterr().err


def test_the_sweep_runs_every_method_and_teachers_before_their_pupils() -> None:
    tree = yaml.safe_load((ROOT / "conf" / "asgml" / "sweep" / "methods.yaml").read_text())
    listed = [name.strip() for name in tree["hydra"]["sweeper"]["params"]["method"].split(",")]
    of_one_modality = {"unimodal_audio", "unimodal_visual"}  # which `unimodal` stands for, with any other modality
    registered = {path.stem for path in (ROOT / "conf" / "asgml" / "method").glob("*.yaml")} - of_one_modality
    assert set(listed) == registered
    assert len(listed) == len(registered)
    assert listed.index("unimodal") < listed.index("umt")
    assert listed.index("joint") == 0


def test_every_asynchronous_row_has_controls_and_every_control_its_row() -> None:
    files = ROOT / "conf" / "asgml" / "method"
    above = {path.stem: yaml.safe_load(path.read_text())["defaults"][0] for path in files.glob("control_*.yaml")}
    assert above == BELOW
    assert set(above.values()) == {path.stem for path in files.glob("asgml_*.yaml")}


def test_the_sweep_composes_and_labels_its_rows() -> None:
    argv = ["-m", "sweep=methods", "experiment=avdigits", "method=joint,umt,control_scale_only", "seed=3"]
    jobs = plan("asgml", argv, dead=dead, schema=Tree).jobs
    assert [job.cfg.label for job in jobs] == ["joint", "umt", "control_scale_only"]
    assert [list(job.cfg.methods) for job in jobs] == [["joint"], ["umt"], ["uniform"]]
    assert jobs[2].cfg.asgml.control == "scale_only"
