"""What the launcher shows of its jobs: the table of a sweep, and the table of what failed in it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from suite.runs.job import Outcome

_COLOURS = {"finished": "green", "evaluated": "green", "skipped": "yellow", "same": "dim", "not started": "dim"}


def console() -> Console:
    """Return a console on stdout, 140 columns wide where that is no terminal."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140)


def varying(overrides: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the overrides of each job without those that all jobs share."""
    common = set(overrides[0]).intersection(*overrides[1:]) if len(overrides) > 1 else set()
    return [[o for o in job if o not in common] for job in overrides]


def metric(metrics: Any) -> str:
    """Return the accuracy among a result's metrics as text, else the mean absolute error, the loss, or nothing."""
    for name in ("accuracy", "mae", "loss"):
        value = metrics.get(name) if isinstance(metrics, dict) else None
        if isinstance(value, int | float):
            return f"{name} {value:.4f}"
    return ""


def _numbers(result: Mapping[str, Any], splits: Sequence[str]) -> str:
    return ", ".join(f"{k.replace('_', ' ')}: {m}" for k in splits if (m := metric(result.get(k))))


def finished(outcome: Outcome) -> str:
    """Return one line on a run that has just ended: its numbers, of the last and the best epoch, and its report."""
    numbers = _numbers(outcome.result, ("val", "test", "val_best", "test_best"))
    report = outcome.result.get("report")
    line = f"finished in {outcome.result['seconds']:.0f} s {numbers}".rstrip()
    return f"{line}; {outcome.dir / report}" if isinstance(report, str) else line


def reused(outcome: Outcome) -> str:
    """Return one line on a run that was not trained again: its numbers, its data, and whether its code has changed."""
    used = "evaluated now" if outcome.status == "evaluated" else "result reused"
    line = f"finished before, {used} (resume=never runs it again) {_numbers(outcome.result, ('val', 'test'))}"
    line = line.rstrip()
    return "; ".join([line, *outcome.remarks])


def sweep_table(overrides: Sequence[Sequence[str]], outcomes: Sequence[Outcome]) -> Table:
    """Return one line per job of a sweep: what distinguishes it, how it ended, its numbers."""
    same = sum(outcome.status == "same" for outcome in outcomes)
    title = f"{len(outcomes)} jobs" + (f", {len(outcomes) - same} runs ({same} the same as another)" if same else "")
    table = Table(title=title)
    for column in ("job", "overrides", "status", "val", "test", "seconds", "run"):
        table.add_column(column, overflow="fold", justify="right" if column == "seconds" else "left")
    for number, (outcome, own) in enumerate(zip(outcomes, varying(overrides)), 1):
        seconds = outcome.result.get("seconds")
        table.add_row(
            str(number),
            escape(" ".join(own)),
            f"[{_COLOURS.get(outcome.status, 'red')}]{outcome.status}[/]",
            metric(outcome.result.get("val")),
            metric(outcome.result.get("test")),
            "" if seconds is None else f"{seconds:.1f}",
            outcome.hash,
        )
    return table


def failure_table(outcomes: Sequence[Outcome]) -> Table | None:
    """Return the failed jobs of a sweep with their errors, None where none failed."""
    failed = [(number, outcome) for number, outcome in enumerate(outcomes, 1) if outcome.status == "failed"]
    if not failed:
        return None
    table = Table(title=f"{len(failed)} failed", title_style="red")
    table.add_column("job", justify="right")
    table.add_column("error", overflow="fold")
    for number, outcome in failed:
        table.add_row(str(number), f"{escape(outcome.error)}\n[dim]{escape(str(outcome.dir))}[/]")
    return table
