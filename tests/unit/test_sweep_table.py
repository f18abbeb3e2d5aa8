"""The table of a sweep: what it calls the runs that were there already."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from suite.runs.display import sweep_table
from suite.runs.outcome import Outcome


def test_runs_that_are_there_already_are_called_what_single_runs_call_them(capsys) -> None:  # type: ignore[no-untyped-def]
    outcomes = [Outcome("a", Path("a"), "skipped", {}), Outcome("b", Path("b"), "finished", {"seconds": 1.0})]
    long = ["seed=0", *(f"asgml.some.key_{n}=1" for n in range(9))]
    Console(width=100).print(sweep_table([long, ["seed=1"]], outcomes))
    told = capsys.readouterr().out
    assert "finished before" in told
    assert "skipped" not in told
