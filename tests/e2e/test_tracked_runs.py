"""W&B offline, read back from its files: what a run tells of itself, and how a resumed one goes on."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import feedback_runs
import lightning as L
import lw_runs
import pytest
from asgml_runs import config, overrides, write_features
from dashboards import blank
from omegaconf import DictConfig, OmegaConf
from wandb_files import OfflineRun, offline_runs

import asgml.feedback.evaluate
import asgml.feedback.run
import latentwire.evaluate
import latentwire.run
from asgml.build import build
from asgml.evaluate import evaluate
from asgml.run import Tree, dead, fit_and_evaluate, judge, train
from callbacks.errors import UserError
from callbacks.run.tensorboard import PACKAGES
from callbacks.run.tracking import STEP, mode_of, wandb_id, wandb_logger
from suite.config.compose import conf_dir
from suite.dashboard import read
from suite.report.library import library_name
from suite.runs.identity import run_dir
from suite.runs.job import Run, execute
from suite.runs.launch import launch
from suite.shell import closing_loggers
from suite.tracking import facts_of, name_of

OFFLINE = ["logger=wandb", "logger.wandb.mode=offline"]
STATISTICS = {"min", "max", "last"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with W&B kept off the network, and in it."""
    place = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        for name in ("DATA", "CACHE", "CONFIG"):
            patch.setenv(f"WANDB_{name}_DIR", str(place / "wandb" / name))
        yield place


class Breaks(L.Callback):
    """Ends a run by an error before its step 14."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop.total_batch_idx == 13:
            raise RuntimeError("the power fails")


def broken(cfg: DictConfig, run: Run) -> dict[str, Any]:
    parts = build(cfg, run)
    parts.trainer.callbacks.append(Breaks())  # type: ignore[attr-defined]
    with closing_loggers(parts.trainer):
        return fit_and_evaluate(cfg, run, parts)


@pytest.fixture(scope="module")
def attempts(folder: Path) -> list[OfflineRun]:
    """The two attempts at a run of 2 epochs of 10 steps, of which the first ends after 13."""
    method = "method=[asgml_staleness,ogm_ge]"
    cfg = config(write_features(folder / "f.npz"), folder / "runs", *OFFLINE, method, "logger.wandb.checkpoints=best")
    said = ["experiment=features", method, "optimizer.lr=0.05", "paths.runs=/runs", "seed=0"]
    assert [execute(cfg, "asgml", task, overrides=said).status for task in (broken, train)] == ["failed", "finished"]
    return offline_runs(run_dir(cfg))


def test_every_agreed_key_is_in_the_files(attempts: list[OfflineRun]) -> None:
    run = attempts[1]
    assert run.name == "method=asgml_staleness,ogm_ge lr=0.05 seed=0"
    assert (run.group, run.project, run.job_type, run.exit_code) == (f"features-{run.id}", "asgml", "train", 0)
    assert set(run.tags) == {"asgml", "features", "Features", "staleness", "uniform", "ogm_ge"}
    assert (run.config["asgml"]["tau"], run.config["optimizer"]["lr"]) == (2, 0.05)
    made_of = run.config["provenance"]
    assert made_of["hash"] == run.id
    assert {"commit", "dirty", "versions"} <= made_of.keys()
    assert len(made_of["data"]) == 12
    assert len(made_of["inputs"]["data/path"]) == 64
    for name in ("val/accuracy", "val/accuracy/audio", "val/loss", "test/accuracy", "test/loss"):
        assert run.metrics[name] == (STATISTICS, STEP), name
        assert run.summary[name].keys() == STATISTICS, name
    for key in (f"{weights}/{split}/accuracy" for weights in ("last", "best") for split in ("val", "test")):
        assert 0 <= run.summary[key] <= 1
    assert run.summary["best/step"] in (10, 20)
    assert run.summary["test/accuracy"]["last"] == run.summary["last/test/accuracy"]
    assert {"tables/metrics/path", "tables/report_test_results/path"} <= run.rows[-1].keys()
    assert "probe/gap" in run.summary
    kinds = dict(run.artefacts.values())
    assert kinds["report"] == [library_name(), "report.html"]
    assert kinds["predictions"] == ["predictions.npz", "predictions_best.npz"]
    assert {"history.csv", "timeline.csv"} <= set(kinds["history"])
    assert kinds["model"] == ["best.ckpt"]


def test_an_evaluation_is_a_run_of_its_own_in_the_group(attempts: list[OfflineRun], folder: Path) -> None:
    """Of the weights that were scored, with what was asked; asked again, it is filed again under the same id."""
    run = next((folder / "runs").glob("*/*/result.json")).parent
    other = write_features(folder / "other.npz", n=70, seed=3)
    found = evaluate(run, [f"data.path={other}"], which="last")
    filed = next(r for r in offline_runs(run) if r.job_type == "evaluate")
    assert (filed.id, filed.group) == (f"{attempts[1].id}-{found['evaluation']}", attempts[1].group)
    assert (filed.exit_code, filed.tags) == (0, attempts[1].tags)
    tested = {key: value for key, value in filed.summary.items() if key.startswith(("last/", "best/"))}
    assert tested == {f"last/test/{name}": pytest.approx(value) for name, value in found["test"].items()}
    assert filed.config["data"] == attempts[1].config["data"]
    assert filed.config["evaluation"]["data"]["path"] == str(other)
    assert ("predictions", ["predictions.npz"]) in filed.artefacts.values()


def test_a_resumed_run_goes_on_with_its_steps(attempts: list[OfflineRun]) -> None:
    """The second attempt starts from the checkpoint of step 10 and repeats no row up to step 13."""
    first, second = attempts
    assert (first.id, first.exit_code) == (second.id, 1)
    steps = [row["_step"] for attempt in attempts for row in attempt.rows]
    assert steps == sorted(steps)
    assert (first.rows[-1]["_step"], second.rows[-1]["_step"]) == (12, 20)
    assert all(row["_step"] == row[STEP] for attempt in attempts for row in attempt.rows)


def test_the_panels_of_the_dashboard_show_what_a_run_logs(attempts: list[OfflineRun]) -> None:
    definition = read(conf_dir() / "dashboard" / "asgml.yaml")
    # a delayed encoder has no update period: that is for asgml.mode=frequency
    assert blank(definition, attempts) == ["Update period of each encoder in steps"]


def test_a_run_that_begins_anew_is_another_one_for_wandb(tmp_path: Path) -> None:
    """What was put aside keeps its steps."""
    run = tmp_path / "0a1b"
    run.mkdir()
    assert wandb_id(run) == "0a1b"
    (tmp_path / "0a1b.old-1").mkdir()
    assert wandb_id(run) == "0a1b-1"
    (run / "wandb").mkdir()
    (run / "wandb" / "0a1b-1.step").write_text("000000000007\n")
    (tmp_path / "0a1b.old-1").rmdir()
    assert wandb_id(run) == "0a1b-1"


def test_an_attempt_without_wandb_leaves_no_step_behind(tmp_path: Path) -> None:
    logger = wandb_logger(str(tmp_path), "x", "p", mode="disabled")
    logger.log_metrics({"val/loss": 1.0}, step=7)
    logger.experiment.finish()
    assert not list(tmp_path.rglob("*.step"))


@pytest.mark.parametrize(("told", "mode"), [("offline", "offline"), ("disabled", "disabled"), ("", "online")])
def test_the_environment_says_whether_to_upload(told: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As W&B's users know it; who is logged in uploads nothing under WANDB_MODE=offline."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", told)
    assert mode_of("auto") == mode
    assert mode_of("offline") == "offline"


def test_a_mode_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(UserError, match="unset WANDB_MODE"):
        mode_of("auto")


def test_a_damaged_step_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "x.step").write_text("twelve")
    with pytest.raises(UserError, match=r"rm .*x\.step"):
        wandb_logger(str(tmp_path), "x", "p", mode="disabled")


def test_configurations_are_told_apart_and_seeds_belong_together(tmp_path: Path) -> None:
    npz = write_features(tmp_path / "f.npz")
    told = {}
    for gamma, lam, seed in ((1, 0.1, 0), (1, 0.1, 1), (2, 0.1, 0), (1, 0.2, 0)):
        line = [f"asgml.gamma={gamma}", f"asgml.lambda_comp={lam}", f"seed={seed}"]
        cfg = config(npz, tmp_path, "asgml.compensation=taylor_diag", *line)
        run = Run(run_dir(cfg), run_dir(cfg).name, "features", seed, None, True, overrides=line)
        told[gamma, lam, seed] = facts_of(cfg, run, [])
    names = [facts["run_name"] for facts in told.values()]
    assert names[0] == "gamma=1 lambda_comp=0.1 seed=0"
    assert len(set(names)) == 4
    groups = [facts["group"] for facts in told.values()]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3
    assert [facts["config"]["asgml"]["gamma"] for facts in told.values()] == [1, 1, 2, 1]


@pytest.mark.parametrize(
    ("overrides", "label", "name"),
    [
        ((), None, "features seed=0"),
        (("experiment=features", "paths.runs=/r", "logger=wandb", "trainer.devices=2"), None, "features seed=0"),
        (("data.path=/far/away/f.npz", "~callbacks.probe"), None, "path=f.npz ~callbacks.probe seed=0"),
        ((), "mine", "mine seed=0"),
        (("asgml.tau=3",), "mine", "mine tau=3 seed=0"),
        (tuple(f"model.encoder.dim={'9' * 60}{i}" for i in range(3)), None, None),
    ],
)
def test_a_name_says_what_differs(overrides: tuple[str, ...], label: str | None, name: str | None) -> None:
    found = name_of(OmegaConf.create({"name": "features", "seed": 0, "label": label}), overrides)
    assert len(found) <= 128
    assert found == name if name else found.endswith("… seed=0")


def test_absent_tensorboard_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("callbacks.run.tensorboard.PACKAGES", ("no_such_package",))
    line = [*overrides(tmp_path / "nothing.npz", tmp_path), "logger=[csv,tensorboard]"]
    with pytest.raises(SystemExit, match="2"):
        launch("asgml", train, dead, schema=Tree, judge=judge, argv=line)
    assert "pip install" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("program", ["asgml", "asgml.feedback", "latentwire"])
def test_all_programs_log_everywhere_at_once(program: str, folder: Path) -> None:
    """Rows in `history.csv`, in TensorBoard where it is installed, and in W&B."""
    installed = any(importlib.util.find_spec(name) for name in PACKAGES)
    trackers = f"logger=[csv,{'tensorboard,' if installed else ''}wandb]"
    place = folder / program
    place.mkdir()
    more = [trackers, "logger.wandb.mode=offline"]
    if program == "asgml":
        cfg, task = config(write_features(place / "f.npz"), place / "runs", *more), train
    elif program == "latentwire":
        cfg, task = lw_runs.config(place, *more), latentwire.run.train
    else:
        cfg, task = feedback_runs.config(place, place / "runs", *more), asgml.feedback.run.train
    assert execute(cfg, program, task).error == ""
    (run,) = offline_runs(place)
    assert (run.project, run.exit_code) == (program, 0)
    assert run.config["program"] == program
    assert {"report", "predictions", "history"} <= {kind for kind, _ in run.artefacts.values()}
    assert any(key.startswith("best/val/") for key in run.summary)
    assert any(key.startswith("best/test/") for key in run.summary)
    assert "tables/metrics/path" in run.rows[-1]
    assert ("tables/verdicts/path" in run.rows[-1]) == (program == "latentwire")
    assert (run_dir(cfg) / "history.csv").is_file()
    if program == "latentwire":
        asks = latentwire.evaluate.asked(run_dir(cfg), ["evaluation.n_boot=50"])
        latentwire.evaluate.evaluate(run_dir(cfg), asks)
        again = offline_runs(place)[-1]
        assert (again.job_type, again.group, again.exit_code) == ("evaluate", run.group, 0)
        assert again.id.startswith(f"{run.id}-")
        assert "best/test/f1" in again.summary
        assert blank(read(conf_dir() / "dashboard" / "latentwire.yaml"), [run]) == []
    if program == "asgml.feedback":
        asgml.feedback.evaluate.evaluate(run_dir(cfg), ["score.detection=0"])
        again = offline_runs(place)[-1]
        assert (again.job_type, again.group, again.exit_code) == ("evaluate", run.group, 0)
        assert again.config["evaluation"]["score"]["detection"] == 0
        assert {"best/test/pixel_auroc"} <= set(again.summary)
    assert bool(list(run_dir(cfg).glob("tensorboard/events.*"))) == installed
