"""A rank that dies is named: on stderr at once, and in the error of the run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callbacks import RankWatch
from suite.runs.outcome import Outcome


def trainer(*codes: str) -> tuple[Any, list[subprocess.Popen[bytes]]]:
    started = [subprocess.Popen([sys.executable, "-S", "-c", code]) for code in codes]
    return SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=started))), started


def test_a_rank_that_is_killed_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    run, (calm, dies) = trainer("import time; time.sleep(60)", "import time; time.sleep(60)")
    watch = RankWatch()
    watch.setup(run, None, "fit")  # type: ignore[arg-type]
    assert watch.dead() == []
    dies.kill()
    dies.wait()
    told, end = "", time.monotonic() + 10
    while "rank 2" not in told and time.monotonic() < end:
        time.sleep(0.02)
        told += capfd.readouterr().err
    assert told == "rank 2 was ended by SIGKILL: the run ends, the same command continues it\n"
    error = RuntimeError("Connection reset by peer")
    watch.on_exception(run, None, error)  # type: ignore[arg-type]
    outcome = Outcome("hash", Path("run"), "finished")
    outcome.ended_by(error)
    assert outcome.error == "RuntimeError: Connection reset by peer; rank 2 was ended by SIGKILL"
    calm.kill()
    calm.wait()


def test_ranks_that_end_well_and_a_run_of_one_process_are_no_news(capfd: pytest.CaptureFixture[str]) -> None:
    run, (well,) = trainer("pass")
    well.wait()
    watch = RankWatch()
    watch.setup(run, None, "fit")  # type: ignore[arg-type]
    watch.teardown(run, None, "fit")  # type: ignore[arg-type]
    alone = RankWatch()
    alone.setup(SimpleNamespace(strategy=SimpleNamespace(launcher=None)), None, "fit")  # type: ignore[arg-type]
    assert (watch.dead(), alone.dead()) == ([], [])
    assert capfd.readouterr().err == ""
