"""`python -m asgml.study settle` on tiny data: real training at tuned points, and the order of the whole."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from asgml_runs import compose, overrides, write_features
from omegaconf import DictConfig, OmegaConf

from asgml.report.tuned import read_tuned
from asgml.run import Tree, dead, judge, train
from asgml.tune.options import DataSet, StudyTree, TuneTree, read_options
from asgml.tune.rows import rows_of
from asgml.tune.studies import Declared
from callbacks.errors import UserError
from suite.config.check import check
from suite.config.compose import Composer, conf_dir
from suite.report import RunRecord, read_runs
from suite.runs.job import Run
from suite.runs.ledger import Ledger
from suite.runs.study import Program

settle = Declared("settle")


class Remembering(Composer):
    """Composes every command line once, because that takes longer than the runs."""

    known: ClassVar[dict[tuple[str, ...], DictConfig]] = {}

    def compose(self, overrides: Sequence[str] = ()) -> DictConfig:
        key = (self.name, *overrides)
        if key not in self.known:
            self.known[key] = super().compose(overrides)
        return copy.deepcopy(self.known[key])


def line(npz: Path, *more: str) -> list[str]:
    """Return the command line of a study on two tiny data sets, one of them noisy, below the current folder."""
    use = f"use:['experiment=features','data.path={npz}']"
    sets = [f"+data_sets.one={{{use}}}", f"+data_sets.two={{{use},noise:{{audio:1.5}}}}"]
    given = [o for o in overrides(npz, Path("runs")) if not o.startswith(("experiment=", "data.path="))]
    return [*sets, *given, *more]


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("data") / "f.npz")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("asgml.tune.tuner.release_memory", lambda: None)


def real(npz: Path, monkeypatch: pytest.MonkeyPatch, rows: str) -> dict[str, RunRecord]:
    """Run the study in earnest, at a default rate so small that the second of two trials wins: runs by label."""
    monkeypatch.setattr("suite.report.single_report", lambda folder, result: folder / "report.html")
    small = ["sets=[one]", "trials=2", "seeds=[0]", "trainer.max_epochs=1", "controls=false", "optimizer.lr=0.0005"]
    assert settle(Program("asgml", train, dead, Tree, judge=judge), line(npz, f"rows=[{rows}]", *small)) == 0
    tuned = read_tuned(Path("runs/settle_one"))
    assert {row.trials for row in tuned.values() if not row.of} == {2}
    assert all(row.point["optimizer.lr"] != 0.0005 for row in tuned.values()), "the test is of tuned points"
    runs = {str(run.label): run for run in read_runs([Path("runs/settle_one")])}
    assert set(runs) == set(tuned)
    assert all(run.finished for run in runs.values())
    return runs


def test_a_yoked_control_replays_the_run_at_the_tuned_point(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = real(npz, monkeypatch, "adaptive,adaptive/yoked_scale")
    control, treated = runs["adaptive/yoked_scale"].config, runs["adaptive"].config
    assert control["asgml"].pop("control") == "yoked_scale"
    assert treated["asgml"].pop("control") == "none"
    assert all(control[key] == treated[key] for key in ("asgml", "optimizer", "seed"))
    table = Path("runs/settle_one/methods.md").read_text()
    assert "as adaptive" in table
    assert "threshold_delta" in table


@pytest.mark.slow
def test_a_pupil_learns_from_the_teachers_at_their_tuned_points(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = real(npz, monkeypatch, "unimodal,umt")
    taught_by = runs["umt"].config["methods"]["umt"]["checkpoints"]
    assert {m: Path(path).parents[1].name for m, path in taught_by.items()} == {
        m: runs[f"unimodal_{m}"].hash for m in ("audio", "visual")
    }
    assert "umt" in Path("runs/settle_one/methods.md").read_text()


def test_a_data_set_is_finished_before_the_next_and_a_stop_loses_nothing(
    npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgml.tune.command.Composer", Remembering)
    done: list[tuple[str, str, int]] = []
    stop_at = 6

    def task(cfg: DictConfig, run: Run) -> dict[str, Any]:
        if len(done) == stop_at:
            raise KeyboardInterrupt
        done.append((cfg.name, cfg.label, cfg.seed))
        off = abs(math.log(cfg.optimizer.lr / 0.2))
        return {"val_best": {"accuracy": 1 - off / 10, "loss": off}, "test_best": {"accuracy": 0.5, "loss": 1.0}}

    program = Program("asgml", task, dead, Tree, judge=judge)
    words = line(npz, "sets=[one,two]", "rows=[joint,uniform]", "trials=2", "seeds=[0,1]")
    with pytest.raises(SystemExit) as ended:
        settle(program, words)
    assert ended.value.code == 130
    stop_at = -1
    assert settle(program, words) == 0
    one = [("joint", 1000)] * 2 + [("uniform", 1000)] * 2 + [(m, s) for s in (0, 1) for m in ("joint", "uniform")]
    assert done == [(f"settle_{name}", *what) for name in ("one", "two") for what in one]
    finished = [row["hash"] for row in Ledger(Path("runs/trials/ledger.jsonl")).rows() if row["status"] == "finished"]
    assert len(finished) == len(set(finished)) == 8
    with np.load(npz) as clean, np.load("runs/data/two.npz") as noisy:
        added = noisy["x_audio"] - clean["x_audio"]
        assert abs(added.std() - 1.5) < 0.1
        assert np.array_equal(noisy["x_visual"], clean["x_visual"])


def test_the_words_of_a_user_are_understood_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    program = Program("asgml", train, dead, Tree)
    for words, said in (
        (["sets=[grid]"], "did you mean grid_digit?"),
        (["sets=[grid_digit]", "--data", "/nowhere"], "/nowhere/grid_digit/grid_digit.npz"),
        (["--data"], "--data FOLDER"),
    ):
        assert settle(program, words) == UserError.EXIT_CODE
        assert said in capsys.readouterr().err


def test_every_method_of_the_sweep_is_a_row_or_a_control() -> None:
    """A method that is added says what is tuned with it, or that nothing is."""
    options = read_options(Composer("asgml/settle"), [], StudyTree)
    used = {word.removeprefix("method=") for row in options.space.values() for word in row.use}
    sweep = yaml.safe_load((conf_dir() / "asgml" / "sweep" / "methods.yaml").read_text())
    listed = {name.strip() for name in sweep["hydra"]["sweeper"]["params"]["method"].split(",")}
    assert {name for name in listed - used if not name.startswith("control_")} == {"asgml_staleness"} - used
    assert set(options.rows or ()) <= set(options.space)


def test_a_data_set_has_the_rows_that_it_names_of_those_of_the_study() -> None:
    options = read_options(Composer("asgml/settle"), [], StudyTree)
    few: DataSet = options.data_sets["avdigits"]
    assert few.rows is not None
    assert set(few.own(options).names()) == set(few.rows) <= set(options.names())
    asked = read_options(Composer("asgml/settle"), ["rows=[joint,umt,adaptive]"], StudyTree)
    assert few.own(asked).names() == ["joint", "adaptive", "adaptive/yoked_scale"]
    assert replace(few, seeds=3).own(options).seeds == options.seeds[:3]
    with pytest.raises(UserError, match="no row 'staleness/none'"):
        replace(few, rows=("staleness/none",)).own(options)


@pytest.mark.slow
def test_every_declared_row_may_take_both_ends_of_its_ranges(npz: Path) -> None:
    options = read_options(Composer("asgml/tune"), [], TuneTree)
    for row in rows_of(None, True, options.space, ["audio", "visual"]):
        for u in (0.0, 0.999):
            point = {key: at.at(u) for key, at in row.knobs.items()}
            cfg = compose([*overrides(npz, Path("runs")), *row.use])
            assert not set(row.knobs) & set(dead(cfg)), row.name
            for key, value in point.items():
                OmegaConf.update(cfg, key, value, merge=False)
            check(cfg, Tree)
            judge(cfg)
