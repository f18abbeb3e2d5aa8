"""Sweeps of the real program in other processes: as an array of a cluster's stand-in, and several at a time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgml_runs import ROOT, config, finish, overrides, write_features

from asgml.run import Tree
from callbacks.run.stored import read_checkpoint
from suite.runs.launch import plan
from suite.runs.ledger import Ledger
from suite.runs.planned import Job
from suite.runs.provenance import read_result

pytestmark = pytest.mark.slow
LONG = ("method=joint", "optimizer.lr=0.01", "trainer.max_epochs=40")  # some seconds


def sweep(data: Path, runs: Path, *more: str) -> list[str]:
    return ["-m", *overrides(data, runs), *LONG, *more]


def command(line: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, "-m", "asgml.run", *line], env=environment, stdout=subprocess.PIPE, text=True
    )


def jobs(line: list[str]) -> list[Job]:
    return plan("asgml", line, schema=Tree).jobs


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 200) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def trained(job: Job) -> int:
    """The process of a job that has written its first checkpoint and is not finished; 0 for any other."""
    if not (job.dir / "checkpoints" / "last.ckpt").is_file():
        return 0
    result = read_result(job.dir)
    assert result["status"] in ("running", "stopped"), "it was too fast to be disturbed"
    return int(result["pid"])


def parent_of(process: int) -> int:
    return int(re.findall(r"^PPid:\s+(\d+)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)[0])


def test_an_array_with_a_crash_and_a_pre_emption_is_complete_after_the_same_command(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    data, runs = write_features(tmp_path / "f.npz"), tmp_path / "runs"
    line = sweep(data, runs, "seed=0,1,2,3,4,5", "launcher=slurm", "launcher.cluster=local")
    *calm, crashed, preempted = jobs(line)
    first = command(line)
    os.kill(wait_for(lambda: trained(crashed), first), signal.SIGKILL)
    # as SLURM does: the signal goes to submitit's process, whose child the worker is
    os.kill(parent_of(wait_for(lambda: trained(preempted), first)), signal.SIGUSR2)
    told, _ = first.communicate(timeout=400)
    assert first.returncode == 1, told
    assert read_result(preempted.dir)["status"] == "finished", "requeued by itself"
    assert read_result(preempted.dir)["resumed"]
    assert "1 failed" in told
    assert "left no word" in " ".join(told.split())
    before = {job.hash: read_result(job.dir) for job in [*calm, preempted]}

    again = command([*line, "launcher.wait=false"])
    told, _ = again.communicate(timeout=100)
    assert again.returncode == 0, told
    assert told.count("finished before") == 5
    assert re.search(r"\b(queued|running): process \d+", " ".join(told.replace("│", " ").split())), "it left at once"
    wait_for(lambda: read_result(crashed.dir)["status"] == "finished", again := command(line))
    told, _ = again.communicate(timeout=100)
    assert again.returncode == 0, told
    assert {job.hash: read_result(job.dir) for job in [*calm, preempted]} == before
    rows = Ledger(runs / "ledger.jsonl").latest()
    assert sorted((row["seed"], row["status"]) for row in rows.values()) == [(n, "finished") for n in range(6)]
    for job in (crashed, preempted):
        undisturbed = finish(config(data, tmp_path / "other", *LONG, f"seed={job.cfg.seed}"))
        assert weights_of(undisturbed) == weights_of(job.dir)
        assert read_result(undisturbed)["test"] == read_result(job.dir)["test"]


def weights_of(run: Path) -> dict[str, Any]:
    stored = read_checkpoint(run / "checkpoints" / "last.ckpt", config_hash=run.name)["state_dict"]
    return {name: value.tolist() for name, value in stored.items()}


def test_several_at_a_time_is_what_one_after_the_other_is(tmp_path: Path) -> None:
    """A sweep in two processes, interrupted by Ctrl-C, gone on with, has the numbers of a serial one."""
    data = write_features(tmp_path / "f.npz")
    line = sweep(data, tmp_path / "runs", "seed=0,1,2,3", "launcher=processes")
    planned = jobs(line)
    process = command(line)
    wait_for(lambda: trained(planned[0]) and trained(planned[1]), process)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=100)
    assert process.returncode == 130, told
    assert [read_result(job.dir).get("status") for job in planned[:2]] == ["stopped"] * 2
    assert "not started" in told
    process = command(line)
    told, _ = process.communicate(timeout=400)
    assert process.returncode == 0, told
    assert [read_result(job.dir)["resumed"] for job in planned] == [True, True, False, False]
    for job in planned[1:3]:
        undisturbed = finish(config(data, tmp_path / "other", *LONG, f"seed={job.cfg.seed}"))
        assert weights_of(undisturbed) == weights_of(job.dir)
