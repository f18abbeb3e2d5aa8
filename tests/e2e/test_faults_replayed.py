"""A fault is chosen by `+fault=NAME`, says so everywhere, and changes the run; the exact code knows nothing of it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from asgml_runs import ROOT, config, differing, fit, overrides, weights, write_features

from asgml.build import judge
from asgml.faults.catalogue import FAULTS
from asgml.faults.page import write_page
from asgml.faults.pairs import PAIRS
from asgml.study import PROGRAM, STUDIES
from callbacks.errors import UserError
from suite.config.compose import Composer
from suite.runs.identity import config_hash, meaningful
from suite.runs.study import run_study

HARD = ("method=asgml_frequency", "asgml.masking=hard")
SPEED = ("asgml.adaptive.signal=speed", "asgml.adaptive.tau_base=1", "asgml.adaptive.update_every=1")
# Settings under which each fault shows within 10 steps.
ACTS = {
    "amp_scaled_buffer": ("method=asgml_staleness",),
    "off_by_one": ("method=asgml_staleness", "asgml.tau=1"),
    "inverted_compensation": ("method=asgml_staleness",),
    "clamped_descent": ("method=asgml_adaptive", *SPEED, "asgml.adaptive.beta=0", "asgml.adaptive.window=2"),
    "zero_start_ema": ("method=boost", "asgml.boost.threshold_delta=0", "callbacks.probe.every=1"),
    "all_groups_gate": HARD,
    "in_phase": (*HARD, "asgml.delayed=all"),
    "zeroed_gradients": HARD,
}
ONLY_FAULTY = {"amp_scaled_buffer": ("asgml.parts.buffer.growth_interval=4", "asgml.parts.buffer.overflow_after=2")}
KNOWS_FAULTS = {"asgml/build.py", "asgml/run.py", "asgml/study.py"}


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("faults") / "f.npz")


def test_every_fault_has_its_file_and_its_test():
    files = {p.stem for p in (ROOT / "conf" / "asgml" / "fault").glob("*.yaml")}
    assert files == set(FAULTS) == set(ACTS)
    assert {p.fault for p in PAIRS} == {*FAULTS, "gamma 4"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_run_differs_from_its_exact_twin(fault, npz, tmp_path):
    line = (*ACTS[fault], "trainer.max_epochs=1", "callbacks.stability=null")
    exact = config(npz, tmp_path, *line)
    faulty = config(npz, tmp_path, *line, f"+fault={fault}", *ONLY_FAULTY.get(fault, ()))
    judge(faulty)
    assert config_hash(exact) != config_hash(faulty)
    assert differing(weights(fit(exact)), weights(fit(faulty)))


@pytest.mark.parametrize("experiment", ["cremad_mini", "avdigits", "cremad"])
def test_a_run_of_the_exact_code_has_the_identity_that_it_would_have_without_any_faults(experiment):
    tree = meaningful(Composer("asgml").compose([f"experiment={experiment}"]), inputs=False)
    assert "fault" not in tree
    assert "parts" not in tree["asgml"]
    assert "asgml.faults" not in json.dumps(tree)


def test_the_exact_code_names_no_fault():
    for package in ("asgml", "callbacks", "latentwire", "suite"):
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith("asgml/faults/") and name not in KNOWS_FAULTS:
                assert "asgml.faults" not in path.read_text(encoding="utf-8"), name


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("off_by_one", ("method=uniform",)),
        ("inverted_compensation", ("method=asgml_staleness", "asgml.compensation=none")),
        ("zeroed_gradients", ("method=asgml_frequency",)),
        ("clamped_descent", ("method=asgml_adaptive", "asgml.adaptive.signal=utilisation")),
        ("in_phase", ("method=asgml_staleness",)),
    ],
)
def test_a_fault_with_nothing_to_act_on_is_refused(fault, line, npz, tmp_path):
    with pytest.raises(UserError, match=rf"\+fault={fault}"):
        judge(config(npz, tmp_path, *line, f"+fault={fault}"))


def shrunk(npz: Path, folder: Path, seeds: tuple[int, ...], rows=None) -> tuple[int, str]:
    """Run the study of faults on tiny data; return its exit code and its page."""
    study = STUDIES["faults"]
    tiny = replace(
        study,
        experiment="features",
        seeds=seeds,
        rows=study.rows if rows is None else tuple(r for r in study.rows if r[0] in rows),
        page=partial(write_page, path=folder / "faults.md"),
    )
    kept = [o for o in overrides(npz, folder / "runs") if not o.startswith(("experiment=", "optimizer"))]
    code = run_study(PROGRAM, tiny, "faults", [*kept, "trainer.max_epochs=1"])
    return code, (folder / "faults.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_study_shrunk_ends_with_its_page_and_runs_nothing_twice(npz, tmp_path, capfd):
    rows = ("label=staleness, tau 2", "label=off_by_one (staleness, tau 2)")
    code, text = shrunk(npz, tmp_path, (0,), rows)
    out = capfd.readouterr().out
    assert code == 0
    assert "| off_by_one | staleness, tau 2 | 1 |" in text
    assert out.count("FAULT REPLAY: off_by_one. This run is wrong on purpose") == 1
    results = [json.loads(p.read_text()) for p in (tmp_path / "runs" / "faults").glob("*/result.json")]
    faulty = [r for r in results if "fault" in r]
    assert {(r["fault"], r["label"]) for r in faulty} == {("off_by_one", "off_by_one (staleness, tau 2)")}
    assert (len(results), len(faulty)) == (2, 1)
    again = shrunk(npz, tmp_path, (0,), rows)
    assert again == (code, text)
    assert "FAULT REPLAY" not in capfd.readouterr().out


@pytest.mark.slow
def test_the_whole_study_shrunk(npz, tmp_path):
    code, text = shrunk(npz, tmp_path, (0, 1))
    assert code == 0
    assert "Not run:" not in text
