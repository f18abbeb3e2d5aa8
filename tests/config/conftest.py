"""The program of `fake_program`, called as from a command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import fake_program
import pytest

Main = Callable[..., int]


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Main:
    """Calls the program with arguments, from an empty folder, and returns its exit code."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("suite.runs.launch.release_memory", lambda: None)  # 0.2 s per job, for nothing here
    fake_program.calls.clear()

    def call(*arguments: str) -> int:
        before = ["program", *arguments, f"paths.runs={tmp_path / 'runs'}"]
        monkeypatch.setattr(sys, "argv", before)
        try:
            fake_program.main()
        except SystemExit as end:
            return int(end.code or 0)
        finally:
            assert sys.argv == before
        return 0

    return call
