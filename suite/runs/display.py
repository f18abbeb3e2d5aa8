"""What the launcher shows of its jobs: the table of a sweep, and the table of what failed in it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from suite.runs.job import CHECKPOINTS
from suite.runs.outcome import Outcome

# which number of a result is shown, the first that it has
METRICS = ("accuracy", "mae", "pixel_auroc", "loss")
_COLOURS = {"finished": "green", "evaluated": "green", "skipped": "green", "same": "dim", "not started": "dim"}
_SAID = {"skipped": "finished before", "evaluated": "finished before, evaluated now"}  # as of a single run
_ELSEWHERE = {"held": "yellow", "queued": "cyan", "running": "cyan"}  # with whom, in the remarks
_COLOURS |= _ELSEWHERE


def console() -> Console:
    """Return a console on stdout, 140 columns wide where that is no terminal.

    In a notebook, too, it writes to stdout as it is: what redirects that keeps the lines together with all others.
    """
    return Console(file=sys.stdout, force_jupyter=False, width=None if sys.stdout.isatty() else 140)


def said(status: str) -> str:
    """Return how an outcome is told to a user."""
    return _SAID.get(status, status)


def varying(overrides: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the overrides of each job without those that all jobs share."""
    common = set(overrides[0]).intersection(*overrides[1:]) if len(overrides) > 1 else set()
    return [[o for o in job if o not in common] for job in overrides]


def metric(metrics: Any) -> str:
    """Return the first of `METRICS` among a result's metrics as text, or nothing."""
    for name in METRICS:
        value = metrics.get(name) if isinstance(metrics, dict) else None
        if isinstance(value, int | float):
            return f"{name} {value:.4f}"
    return ""


def _numbers(result: Mapping[str, Any], splits: Sequence[str]) -> str:
    return ", ".join(f"{k.replace('_', ' ')}: {m}" for k in splits if (m := metric(result.get(k))))


def finished(outcome: Outcome) -> str:
    """Return the lines on a run that has just ended: how long it took, where its report lies, and what is next."""
    result, report = outcome.result, outcome.result.get("report")
    numbers = "" if result_table(result) else _numbers(result, ("val", "test", "val_best", "test_best"))
    lines = [f"finished in {result['seconds']:.0f} s {numbers}".rstrip()]
    if isinstance(report, str):
        lines.append(f"report: {outcome.dir / report}")
    lines.append("the same command shows this result again; with resume=never it runs anew")
    if result.get("debug"):
        lines.append(f"debug: {result['debug']}")  # the verdict is what such a run is for: it stands last
    return "\n".join(lines)


def unfinished(outcome: Outcome) -> str:
    """Return one line on a run that was stopped or has failed: how it goes on."""
    checkpoint = outcome.dir / CHECKPOINTS / "last.ckpt"
    if not checkpoint.is_file():
        return f"{outcome.status} before its first checkpoint: the same command starts it anew"
    written = datetime.fromtimestamp(checkpoint.stat().st_mtime).strftime("%H:%M:%S")
    goes_on = f"the same command continues from {CHECKPOINTS}/last.ckpt (written {written})"
    return f"{outcome.status}; {goes_on}, resume=never starts anew"


def result_table(result: Mapping[str, Any]) -> Table | None:
    """Return the numbers of a run at its last and its best epoch, per modality where there are several.

    None for a result without numbers on a test split.
    """
    test = result.get("test")
    name = next((n for n in METRICS if isinstance(test, dict) and n in test), None)
    if not isinstance(test, dict) or name is None:
        return None
    parts = [key for key in test if key.startswith(f"{name}/")]
    table = Table(title=f"{name} on test", title_justify="left")
    for column in ("weights", "validation", "test", *(key.partition("/")[2] for key in parts)):
        table.add_column(column, justify="left" if column == "weights" else "right")
    epoch = result.get("best_epoch")
    best = "best epoch on validation" + (f" ({epoch + 1})" if isinstance(epoch, int) else "")
    for label, suffix in (("last epoch", ""), (best, "_best")):
        found, held_out = result.get(f"test{suffix}"), result.get(f"val{suffix}")
        if isinstance(found, dict):
            cells = [(held_out or {}).get(name), *(found.get(key) for key in (name, *parts))]
            table.add_row(label, *("" if not isinstance(x, int | float) else f"{x:.4f}" for x in cells))
    return table


def reused(outcome: Outcome) -> str:
    """Return one line on a run that was not trained again: its numbers, its data, and whether its code has changed."""
    used = "evaluated now" if outcome.status == "evaluated" else "result reused"
    line = f"finished before, {used} (resume=never runs it again) {_numbers(outcome.result, ('val', 'test'))}"
    debug = [f"debug: {outcome.result['debug']}"] if outcome.result.get("debug") else []
    return "; ".join([line.rstrip(), *outcome.remarks, *debug])


def sweep_table(overrides: Sequence[Sequence[str]], outcomes: Sequence[Outcome]) -> Table:
    """Return one line per job of a sweep: what distinguishes it, how it ended, its numbers."""
    same = sum(outcome.status == "same" for outcome in outcomes)
    title = f"{len(outcomes)} jobs" + (f", {len(outcomes) - same} runs ({same} the same as another)" if same else "")
    table = Table(title=title)
    for column in ("job", "overrides", "status", "val", "test", "seconds", "run"):
        least = max(len(said(o.status)) for o in outcomes) if column == "status" else None
        justify: JustifyMethod = "right" if column == "seconds" else "left"
        table.add_column(column, overflow="fold", justify=justify, min_width=least)
    for number, (outcome, own) in enumerate(zip(outcomes, varying(overrides)), 1):
        seconds = outcome.result.get("seconds")
        table.add_row(
            str(number),
            escape(" ".join(own)),
            f"[{_COLOURS.get(outcome.status, 'red')}]{said(outcome.status)}[/]" + _elsewhere(outcome),
            metric(outcome.result.get("val")),
            metric(outcome.result.get("test")),
            "" if seconds is None else f"{seconds:.1f}",
            outcome.hash,
        )
    return table


def _elsewhere(outcome: Outcome) -> str:
    return escape(f": {'; '.join(outcome.remarks)}") if outcome.status in _ELSEWHERE and outcome.remarks else ""


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
