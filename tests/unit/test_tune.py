"""Equal tuning: the same budget and rates for every row, the choice by validation alone, and nothing done twice."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgml_runs import overrides, write_features
from omegaconf import DictConfig, OmegaConf

from asgml.report.comparison import comparison
from asgml.report.tuned import read_tuned
from asgml.run import Tree, dead, judge, train
from asgml.tune.choose import Trial, Validated, choose, validated
from asgml.tune.options import RowOptions, TuneTree, read_options
from asgml.tune.rows import rows_of
from asgml.tune.space import Range, around, points
from asgml.tune.trees import Trees
from asgml.tune.tuner import Tuner
from callbacks.errors import UserError
from callbacks.stages.gate import TooManySkips
from suite.config.compose import Composer
from suite.report import read_runs
from suite.report.library import library_name
from suite.runs.job import Run
from suite.runs.ledger import Ledger, write_json
from suite.runs.provenance import read_result
from suite.runs.study import Program

LR = ("optimizer.lr", around(0.1, (1 / 8, 8)))
GAMMA = {"asgml.gamma": Range(log=(0.25, 4))}


# -- points
def test_rates_are_the_same_for_every_row_and_lie_in_the_range() -> None:
    rows = [points(9, LR, knobs, 3) for knobs in ({}, GAMMA, {**GAMMA, "asgml.k": Range(choice=(2, 3, 4))})]
    rates = [[point["optimizer.lr"] for point in row[1:]] for row in rows]
    assert rates[0] == rates[1] == rates[2]
    assert len(set(rates[0])) == 8
    assert all(0.1 / 8 <= lr <= 0.8 for lr in rates[0])
    assert [row[0] for row in rows] == [{}, {}, {}]
    assert points(9, LR, GAMMA, 4) != rows[1]


def test_more_trials_go_on_where_fewer_ended() -> None:
    assert points(12, LR, GAMMA, 0)[:5] == points(5, LR, GAMMA, 0)


def test_points_fill_the_logarithm_of_the_range_evenly() -> None:
    logs = np.log2([float(p["optimizer.lr"]) / 0.1 for p in points(65, LR, {}, 0)[1:]])
    assert np.histogram(logs, np.linspace(-3, 3, 5))[0].tolist() == [16, 16, 16, 16]


def test_ranges_that_mean_nothing_are_refused() -> None:
    for wrong in ({}, {"log": (1, 2), "choice": (1,)}, {"log": (0, 1)}, {"uniform": (2, 1)}, {"choice": ()}):
        with pytest.raises(ValueError, match=r"log|uniform|choice"):
            Range(**wrong)
    with pytest.raises(ValueError, match="3 knobs"):
        points(2, LR, dict.fromkeys("abc", Range(uniform=(0, 1))), 0)


# -- the choice
class Sealed(dict[str, Any]):
    """A result whose test entries raise when they are read."""

    def __getitem__(self, key: str) -> Any:
        assert not key.startswith("test"), f"{key} was read"
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        assert not key.startswith("test"), f"{key} was read"
        return super().get(key, default)


def test_a_choice_reads_validation_at_the_best_epoch_only() -> None:
    result = Sealed(val_best={"accuracy": 0.7, "loss": 0.9}, val={"accuracy": 0.1}, test={}, test_best={})
    assert validated([result, Sealed(val_best={"accuracy": 0.9, "loss": 0.7})], "row") == Validated(0.8, 0.8)
    assert validated([Sealed(val_best={"mae": 0.5, "loss": 1.0})], "row").score == -0.5
    assert validated([result, None], "row") == Validated(None)
    with pytest.raises(UserError, match="no val_best"):
        validated([Sealed(val={"accuracy": 1.0})], "row")


def test_ties_go_to_the_smaller_loss_then_to_the_earlier_trial() -> None:
    def chosen(*pairs: tuple[float | None, float | None]) -> int | None:
        return choose([Trial({}, {}, {}, Validated(*pair)) for pair in pairs])

    assert chosen((0.5, 1.0), (0.6, 2.0), (0.6, 1.5), (0.6, 1.5)) == 2
    assert chosen((None, None), (0.1, math.inf)) == 1
    assert chosen((None, None)) is None


# -- rows
def test_a_row_per_modality_and_controls_below_their_row() -> None:
    space = {
        "unimodal": RowOptions(("method=unimodal",), "none", per_modality="methods.unimodal.modality"),
        "umt": RowOptions(("method=umt",), "none", teachers="methods.umt.checkpoints"),
        "soft": RowOptions(("method=asgml_frequency",), GAMMA, controls=("lr_matched", "random_skip")),
    }
    found = rows_of(None, True, space, ["audio", "lips"])
    names = ["unimodal_audio", "unimodal_lips", "umt", "soft", "soft/lr_matched", "soft/random_skip"]
    assert [row.name for row in found] == names
    assert found[2].pupil_of == {"audio": "unimodal_audio", "lips": "unimodal_lips"}
    assert (found[4].of, found[4].use[-1]) == ("soft", "asgml.control=lr_matched")
    for wrong, said in (
        (["umt"], "put unimodal before it"),
        (["soft/lr_matched"], "put soft before it"),
        (["soft", "soft"], "soft twice"),
        (["sofft"], "did you mean soft"),
        (["soft", "soft/lr_matchd"], "did you mean soft/lr_matched"),
    ):
        with pytest.raises(UserError, match=said):
            rows_of(wrong, False, space, ["audio", "lips"])


# -- the whole of it, with a task that answers at once
class Fake:
    """Answers with a known best rate; remembers what it was asked."""

    def __init__(self) -> None:
        self.done: list[DictConfig] = []
        self.test_bonus = 0.0
        self.diverges_above = math.inf

    def __call__(self, cfg: DictConfig, run: Run) -> dict[str, Any]:
        self.done.append(cfg)
        if cfg.optimizer.lr > self.diverges_above:
            raise TooManySkips("gradients", "20 steps in a row", "finite gradients", "set optimizer.lr=0.1")
        off = abs(math.log(cfg.optimizer.lr / 0.2))
        (run.dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run.dir / "checkpoints" / "best.ckpt").write_text(run.hash)
        for name in ("report.html", library_name()):
            (run.dir / name).write_text("large")
        scores = {"accuracy": 1 - off / 10, "loss": off}
        poisoned = {"accuracy": off / 10 + self.test_bonus, "loss": -off}
        return {"val": scores, "val_best": scores, "test": poisoned, "test_best": poisoned}


class Remembering(Composer):
    """Composes every command line once, because that takes longer than the runs."""

    def compose(self, overrides: Sequence[str] = ()) -> DictConfig:
        key = tuple(overrides)
        if key not in COMPOSED:
            COMPOSED[key] = super().compose(overrides)
        return copy.deepcopy(COMPOSED[key])


COMPOSED: dict[tuple[str, ...], DictConfig] = {}
COMPOSER = Remembering("asgml")
RUNS = Path("runs")  # below the folder of each test


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("asgml.tune.tuner.release_memory", lambda: None)
    return Fake()


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("data") / "f.npz")


@pytest.fixture(scope="module")
def options() -> TuneTree:
    return read_options(Composer("asgml/tune"), ["trials=3", "seeds=[0,1]"], TuneTree)


def settle(fake: Fake, npz: Path, options: TuneTree, *rows: str, **more: Any) -> Tuner:
    program = Program("asgml", fake, dead, Tree, judge=judge)
    trees = Trees(program, COMPOSER, [*overrides(npz, RUNS), "name=toy"], options.lr)
    found = Tuner(trees, replace(options, rows=list(rows), **more))
    found.tune()
    found.evaluate()
    return found


def test_every_row_has_the_same_budget_and_the_table_tells_it(fake: Fake, npz: Path, options: TuneTree) -> None:
    settle(fake, npz, options, "unimodal", "joint", "umt", "frequency_hard", "frequency_hard/lr_matched")
    trials = [cfg for cfg in fake.done if cfg.seed == 1000]
    by_row: dict[str, list[float]] = {}
    for cfg in trials:
        by_row.setdefault(cfg.label, []).append(cfg.optimizer.lr)
    assert set(by_row) == {"unimodal_audio", "unimodal_visual", "joint", "umt", "frequency_hard"}
    assert len({tuple(rates) for rates in by_row.values()}) == 1
    assert by_row["joint"][0] == 0.05  # trial 0 is the default point
    best = min(by_row["joint"], key=lambda lr: abs(math.log(lr / 0.2)))
    evaluated = [cfg for cfg in fake.done if cfg.seed != 1000]
    assert {cfg.optimizer.lr for cfg in evaluated} == {best}
    assert len(evaluated) == 2 * 6
    control, treated = (
        next(c for c in evaluated if c.label == name) for name in ("frequency_hard/lr_matched", "frequency_hard")
    )
    assert (control.asgml.k, control.asgml.gamma) == (treated.asgml.k, treated.asgml.gamma)
    pupil = next(c for c in evaluated if c.label == "umt" and c.seed == 1)
    teacher = Path(pupil.methods.umt.checkpoints.audio).parents[1]
    assert OmegaConf.load(teacher / "config.yaml").seed == 1
    assert OmegaConf.load(teacher / "config.yaml").label == "unimodal_audio"

    table, controls = comparison(read_runs([RUNS / "toy"]))
    lines = {row[0].text: [cell.text for cell in row] for row in table.rows}
    titles = [column.title for column in table.columns]
    budget, point = titles.index("trials"), titles.index("chosen point")
    assert lines["joint"][budget : point + 1] == ["3", f"lr {best:g}"]
    assert lines["umt"][budget] == "3"
    assert lines["frequency_hard/lr_matched"][budget] == "as frequency_hard"
    assert [cell.text for cell in controls.rows[0]][:2] == ["frequency_hard", "frequency_hard/lr_matched"]
    assert "frequency_hard" in (RUNS / "toy" / "tuning.md").read_text()
    assert not [*RUNS.rglob("report.html"), *RUNS.rglob("plotly-*")]


def test_nothing_runs_twice_and_more_of_it_runs_only_what_is_new(fake: Fake, npz: Path, options: TuneTree) -> None:
    settle(fake, npz, options, "joint", "uniform")
    first = len(fake.done)
    assert first == 2 * (3 + 2)
    before = (RUNS / "toy" / "tuned.json").read_text()
    settle(fake, npz, options, "joint", "uniform")
    assert len(fake.done) == first
    assert (RUNS / "toy" / "tuned.json").read_text() == before
    assert len(Ledger(RUNS / "trials" / "ledger.jsonl").rows()) == 6
    settle(fake, npz, options, "joint", seeds=[2])
    assert len(fake.done) == first + 1
    assert sorted(read_tuned(RUNS / "toy")["joint"].runs) == [0, 1, 2]
    settle(fake, npz, options, "joint", trials=4, seeds=[0])
    assert fake.done[first + 1].seed == 1000  # of the fourth trial


def test_the_test_split_moves_no_choice_and_validation_does(fake: Fake, npz: Path, options: TuneTree) -> None:
    settle(fake, npz, options, "joint", trials=4)
    chosen = read_tuned(RUNS / "toy")["joint"].point

    def rewrite(split: str, change: Mapping[float, float]) -> None:
        for path in (RUNS / "trials" / "toy").glob("*/result.json"):
            result = read_result(path.parent)
            lr = OmegaConf.load(path.parent / "config.yaml").optimizer.lr
            result[split]["accuracy"] = change.get(lr, 0.0)
            write_json(path, result)

    other = next(c.optimizer.lr for c in fake.done if c.optimizer.lr != chosen["optimizer.lr"])
    for split in ("test", "test_best", "val"):
        rewrite(split, {other: 1.0})
    settle(fake, npz, options, "joint", trials=4)
    assert read_tuned(RUNS / "toy")["joint"].point == chosen
    rewrite("val_best", {other: 1.0})
    settle(fake, npz, options, "joint", trials=4)
    assert read_tuned(RUNS / "toy")["joint"].point == {"optimizer.lr": other}
    # what was evaluated at the earlier choice is left out of the table, and said to be
    (table,) = comparison(read_runs([RUNS / "toy"]))
    assert next(row for row in table.rows if row[0].text == "joint")[1].text == "2"
    assert any("Left out: 2 runs" in note for note in table.notes)


def test_a_trial_that_diverges_counts_and_is_not_repeated(fake: Fake, npz: Path, options: TuneTree) -> None:
    fake.diverges_above = 0.1
    settle(fake, npz, options, "joint", trials=4)
    first = len(fake.done)
    row = read_tuned(RUNS / "toy")["joint"]
    assert row.trials == 4
    assert row.point["optimizer.lr"] <= 0.1
    settle(fake, npz, options, "joint", trials=4)
    assert len(fake.done) == first


@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory"), UserError("encoder 'audio'", "no kernels", "kernels", "out of memory")]
)
def test_a_trial_that_crashes_leaves_its_row_untuned_and_the_others_go_on(
    fake: Fake, npz: Path, options: TuneTree, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    answer = Fake.__call__

    def breaks(self: Fake, cfg: DictConfig, run: Run) -> dict[str, Any]:
        if cfg.label == "joint":
            raise error
        return answer(self, cfg, run)

    monkeypatch.setattr(Fake, "__call__", breaks)
    found = settle(fake, npz, options, "joint", "uniform")
    assert list(read_tuned(RUNS / "toy")) == ["uniform"]
    assert len(found.failed) == 1
    assert "out of memory" in found.failed[0]


def test_what_cannot_be_compared_is_refused_before_anything_runs(fake: Fake, npz: Path, options: TuneTree) -> None:
    def mine(**knobs: Range) -> TuneTree:
        return replace(options, space={"mine": RowOptions(("method=uniform",), knobs)})

    for wrong, said in (
        (mine(**{"asgml.k": Range(choice=(2, 3))}), "asgml.mode=sync skips no update"),
        (mine(**{"asgml.gama": Range(log=(1, 4))}), "which this row does not have"),
    ):
        with pytest.raises(UserError, match=said):
            settle(fake, npz, wrong, "mine")
    with pytest.raises(UserError, match="leave seed=3 out"):
        Trees(Program("asgml", fake, dead, Tree), COMPOSER, ["experiment=features", "seed=3"], options.lr)
    elsewhere = ["experiment=features", f"data.path={npz}", "launcher=processes", "launcher.jobs=4"]
    with pytest.raises(UserError, match=r"leave launcher=processes and launcher\.jobs=4 out"):
        Trees(Program("asgml", fake, dead, Tree), COMPOSER, elsewhere, options.lr)
    assert not fake.done


def test_trackers_file_trials_under_their_row_and_point(npz: Path, options: TuneTree) -> None:
    line = [*overrides(npz, RUNS), "name=toy", "logger=wandb"]
    trees = Trees(Program("asgml", train, dead, Tree), COMPOSER, line, options.lr)
    (row,) = rows_of(["joint"], False, options.space, ["audio", "visual"])
    trial, evaluated = (trees.tree(row, {"optimizer.lr": 0.2}, 7, trial=t).logger.wandb for t in (True, False))
    assert (trial.job_type, trial.name) == ("tune", "joint lr=0.2 seed=7")
    assert (evaluated.job_type, evaluated.name) == ("train", None)


def test_options_that_contradict_themselves_are_refused() -> None:
    composer = Composer("asgml/tune")
    own = "+space.mine={use:['method=uniform'],knobs:{asgml.gamma:{log:[4,1]}}}"
    misspelt = "+space.mine={use:['method=uniform'],knobs:none,control:[lr_matched]}"
    for wrong, said in (
        ("tune_seeds=[0]", "set tune_seeds="),
        ("trials=0", "trials"),
        (own, r"space.mine.knobs.asgml.gamma[\s\S]*does not ascend"),
        (misspelt, r"space.mine.control\n"),
    ):
        with pytest.raises(UserError, match=said):
            read_options(composer, [wrong], TuneTree)
