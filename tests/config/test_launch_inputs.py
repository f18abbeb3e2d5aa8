"""What the launcher does when data or code are not what they were, and with jobs that are the same run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_program
import pytest
from asgml_runs import overrides, write_features
from omegaconf import DictConfig

from asgml.run import Tree, dead
from callbacks.run.stored import write_checkpoint
from suite.config.instantiate import build_node
from suite.runs import inputs
from suite.runs.job import Run
from suite.runs.launch import launch
from suite.runs.ledger import Ledger

Start = Callable[..., int]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("suite.runs.launch.release_memory", lambda: None)
    return tmp_path / "runs"


class Task:
    """Stands for training: prepares the data, and leaves a checkpoint and a result, or fails."""

    def __init__(self) -> None:
        self.calls: list[Run] = []
        self.fails = False

    def __call__(self, cfg: DictConfig, run: Run) -> dict[str, Any]:
        self.calls.append(run)
        build_node(cfg.data).prepare()
        write_checkpoint({"state_dict": {}}, run.dir / "checkpoints" / "last.ckpt")
        if self.fails:
            raise ValueError("stopped")
        return {"val": {"accuracy": len(self.calls) / 10}}


def start(task: Task, *argv: str) -> int:
    try:
        launch("asgml", task, dead, schema=Tree, argv=argv)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def ledger(runs: Path) -> list[dict[str, Any]]:
    return Ledger(runs / "ledger.jsonl").rows()


def test_replaced_data_are_a_new_run_and_both_results_stay(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, task = write_features(tmp_path / "data.npz"), Task()
    line = overrides(data, runs)
    assert start(task, *line) == 0
    data.touch()
    assert start(task, *line) == 0
    told = capsys.readouterr().out
    assert "result reused" in told
    assert "data unchanged (data.path)" in told
    assert len(task.calls) == 1

    shutil.copy(data, tmp_path / "first.npz")
    write_features(data, seed=1)
    assert start(task, *line) == 0
    assert len(task.calls) == 2
    told = " ".join(capsys.readouterr().out.split())
    first, second = ledger(runs)
    assert f"a new run: {first['hash']} has the same configuration and other data (data.path: {data} had" in told
    assert first["hash"] != second["hash"]
    assert first["configuration"] == second["configuration"]
    for row, value in ((first, 0.1), (second, 0.2)):
        result = json.loads((Path(row["run_dir"]) / "result.json").read_text())
        assert (result["status"], result["val"]["accuracy"]) == ("finished", value)
        assert result["inputs"]["data.path"] == row["inputs"]["data.path"]

    shutil.copy(tmp_path / "first.npz", data)
    assert start(task, *line) == 0
    assert len(task.calls) == 2, "the first result is there again"
    assert "accuracy 0.1000" in capsys.readouterr().out
    assert len(json.loads((runs / ".fingerprints.json").read_text())) <= 2  # its seal


def test_an_interrupted_run_does_not_go_on_with_other_data(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, task = write_features(tmp_path / "data.npz"), Task()
    line = overrides(data, runs)
    task.fails = True
    assert start(task, *line) == 1
    write_features(data, seed=1)
    task.fails = False
    assert start(task, *line, "resume=must") == 2
    told = capsys.readouterr().err
    assert task.calls[0].hash in told
    assert "data.path" in told
    assert start(task, *line) == 0
    first, second = task.calls
    assert second.resume_from is None
    assert (first.dir / "checkpoints" / "last.ckpt").exists(), "the old attempt stays"


def test_a_finished_run_whose_prepared_data_have_changed_is_kept_aside(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Task()
    line = ["data.samples=18", "data.actors=3", f"data.path={tmp_path / 'mini'}", f"paths.runs={runs}"]
    for _ in range(2):
        assert start(task, *line) == 0
    assert len(task.calls) == 1, "what the first start has rendered is no change"
    first, second, *_ = sorted((tmp_path / "mini").glob("*/AudioWAV/*.wav"))
    shutil.copy(second, first)
    capsys.readouterr()
    assert start(task, *line, "resume=must") == 2
    assert "data.prepared/audio" in capsys.readouterr().err
    assert start(task, *line) == 0
    assert len(task.calls) == 2
    assert "finished before on other data" in capsys.readouterr().out
    kept = task.calls[0].dir.with_name(task.calls[0].hash + ".old-1")
    assert json.loads((kept / "result.json").read_text())["val"]["accuracy"] == 0.1


def test_changed_code_is_said_in_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "my_method_of_today.py"
    source.write_text("from asgml.methods import Method\n\n\nclass Mine(Method):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    line = [*overrides(write_features(tmp_path / "data.npz"), runs), "+methods.mine._target_=my_method_of_today.Mine"]
    task = Task()
    task.fails = True
    assert start(task, *line) == 1
    for wanted in ("continues from", "result reused"):
        task.fails = False
        source.write_text(source.read_text() + "# other\n")
        inputs._source_hash.cache_clear()
        capsys.readouterr()
        assert start(task, *line) == 0
        (told,) = [text for text in capsys.readouterr().out.splitlines() if "code changed since" in text]
        assert wanted in told
        assert told.endswith("code changed since: my_method_of_today.Mine")
    assert task.calls[1].resume_from is not None
    sys.modules.pop("my_method_of_today")


def test_jobs_that_differ_in_a_key_without_effect_run_once(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Run] = []
    fails = True

    def task(cfg: DictConfig, run: Run) -> dict[str, Any]:
        calls.append(run)
        if fails:
            raise ValueError("too slow")
        return {}

    def start(*argv: str) -> int:
        monkeypatch.setattr(fake_program, "task", task)
        monkeypatch.setattr(sys, "argv", ["program", *argv, f"paths.runs={runs}"])
        try:
            fake_program.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    assert start("-m", "speed.mode=slow", "speed.tau=0", "speed.k=1,2") == 1
    assert len(calls) == 1, "nor is a failed one tried twice"
    assert "1 failed" in capsys.readouterr().out
    fails = False
    assert start("-m", "speed.mode=slow", "speed.tau=0,1", "speed.k=1,2") == 0
    told = capsys.readouterr().out
    assert len(calls) == len(ledger(runs)) == 4
    assert "the same run as job 1: speed.k acts on nothing at speed.tau=0" in told
    assert "4 jobs, 3 runs (1 the same as another)" in told
    assert start("speed.mode=slow", "speed.tau=0", "speed.k=3") == 0, "a single run is that run as well"
    told = capsys.readouterr().out
    assert "speed.k acts on nothing at speed.tau=0" in told
    assert "result reused" in told
