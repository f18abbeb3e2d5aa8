"""A sweep over methods on data with any modalities: a row for each, teachers first, and what cannot apply left out."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from asgml_runs import overrides

from asgml.run import Tree, main
from asgml.sweep import for_the_data
from callbacks.errors import UserError
from suite.report import read_runs

SWEEP = """\
# @package _global_
label: ${hydra:runtime.choices.method}
hydra:
  sweeper:
    params:
      method: METHODS
      seed: 0
"""


def features(path: Path, *modalities: str) -> Path:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    arrays = {f"x_{m}": (rng.standard_normal((3, 5))[y] + rng.standard_normal((60, 5))) for m in modalities}
    np.savez(path, y=y, split=np.repeat([0, 1, 2], [30, 15, 15]), **arrays)
    return path


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the arguments that choose a sweep of a few methods."""
    folder = tmp_path_factory.mktemp("conf") / "sweep"
    folder.mkdir()
    (folder / "short.yaml").write_text(SWEEP.replace("METHODS", "joint, unimodal, umt, agm, amst"))
    (folder / "teachers.yaml").write_text(SWEEP.replace("METHODS", "unimodal, umt"))
    return ["-m", "--config-dir", str(folder.parent), "sweep=short"]


def methods(argv: list[str]) -> list[str]:
    """Return the list of methods that a command line amounts to."""
    return next(o for o in for_the_data(argv, Tree) if o.startswith("method=")).removeprefix("method=").split(",")


@pytest.mark.slow
def test_three_modalities_have_three_teachers_and_their_pupil_runs(
    short: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    npz = features(tmp_path / "three.npz", "text", "audio", "lips")
    small = [o for o in overrides(npz, tmp_path / "runs") if not o.startswith("trainer.max_epochs")]
    monkeypatch.setattr(sys, "argv", ["asgml.run", *short[:-1], "sweep=teachers", *small, "trainer.max_epochs=1"])
    main()
    runs = read_runs([tmp_path / "runs"])
    trained = {run.label: run.config["methods"].get("unimodal", {}).get("modality") for run in runs if run.finished}
    assert trained == {"umt": None, **{f"unimodal_{m}": m for m in ("text", "audio", "lips")}}
    assert "not applicable" not in capsys.readouterr().out


def test_what_needs_more_modalities_is_named_in_one_line_and_left_out(
    short: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    npz = features(tmp_path / "one.npz", "sound")
    assert methods([*short, "experiment=features", f"data.path={npz}"]) == ["joint", "unimodal_sound", "umt"]
    told = [line for line in capsys.readouterr().out.splitlines() if "not applicable" in line]
    assert len(told) == 1
    assert "agm (needs two modalities)" in told[0]
    assert "amst (is set for audio: run it with methods.amst.modality=sound)" in told[0]


def test_the_modalities_of_media_are_known_before_anything_is_there(short: list[str], tmp_path: Path) -> None:
    argv = [*short[:-1], "sweep=teachers", "experiment=avdigits", f"paths.data={tmp_path}/nothing"]
    assert methods(argv) == ["unimodal_audio", "unimodal_visual", "umt"]


def test_a_typed_list_and_a_single_run_stay_as_they_are(short: list[str]) -> None:
    for argv in ([*short, "method=ogm_ge,joint"], ["experiment=cremad_mini", "method=ogm_ge"], ["-m", "seed=0,1"]):
        assert for_the_data(argv, Tree) == argv


def test_data_sets_of_one_sweep_have_the_same_modalities(short: list[str], tmp_path: Path) -> None:
    one, two = features(tmp_path / "a.npz", "audio", "lips"), features(tmp_path / "b.npz", "audio", "lips")
    argv = [*short[:-1], "sweep=teachers", "experiment=features"]
    assert methods([*argv, f"data.path={one},{two}"]) == ["unimodal_audio", "unimodal_lips", "umt"]
    other = features(tmp_path / "c.npz", "text")
    with pytest.raises(UserError, match="start one sweep per data set"):
        for_the_data([*argv, f"data.path={one},{other}"], Tree)


def test_data_that_are_not_there_are_told_before_any_job(
    short: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["asgml.run", *short, "experiment=features", f"data.path={tmp_path}/no.npz"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == UserError.EXIT_CODE
    assert "no such file" in capsys.readouterr().err
