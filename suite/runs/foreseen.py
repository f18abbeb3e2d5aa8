"""What `plan=true` shows: what a command line would run, which of it is done, what it would take. Nothing runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.markup import escape
from rich.table import Table

from suite.launchers.submissions import on_its_way
from suite.runs.display import console, varying
from suite.runs.job import CHECKPOINTS, ledger_of
from suite.runs.lock import holder
from suite.runs.planned import Job, PlannedJobs
from suite.runs.provenance import read_result

PLAN = "plan=true"
# From a tree to what the program knows of a run beforehand, a few words by name: `steps`, `memory` …
Foresee = Callable[[DictConfig], Mapping[str, str]]
# Runs that agree in these take about as long as each other.
ALIKE = (
    *("data", "corpus", "lms", "clip", "model", "encoder", "loader", "stages", "size", "feedback", "loops"),
    *("trainer.max_epochs", "trainer.max_steps"),
)
SHOWN = 90  # characters of one line of the configuration


def show_plan(planned: PlannedJobs, foresee: Foresee | None) -> None:
    """Print what a command line would run.

    Args:
        planned: its checked jobs.
        foresee: what the program knows of a run beforehand.
    """
    screen = console()
    if not planned.multirun:
        job = planned.jobs[0]
        rows = {**summary(job.cfg), **({} if foresee is None else foresee(job.cfg))}
        rows |= {"measured": measured(job), "run": str(job.dir), "state": state(job)}
        table = Table(title="plan, nothing runs", title_justify="left", show_header=False)
        table.add_column("what", no_wrap=True)
        table.add_column("found", overflow="fold")
        for name, told in rows.items():
            table.add_row(name, escape(told))
        screen.print(table)
        return
    table = Table(title=f"plan of {len(planned.jobs)} jobs, nothing runs", title_justify="left")
    for column in ("job", "overrides", "state", "measured", "run"):
        table.add_column(column, overflow="fold")
    for number, (job, own) in enumerate(zip(planned.jobs, varying([j.overrides for j in planned.jobs])), 1):
        told = state(job) if job.same_as is None else f"the same as job {job.same_as + 1}"
        table.add_row(str(number), escape(" ".join(own)), escape(told), escape(measured(job)), job.hash)
    screen.print(table)


def summary(cfg: DictConfig) -> dict[str, str]:
    """Return one line for each part of a tree: its class and what it is given."""
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    found = {}
    for name, node in tree.items():
        if isinstance(node, dict) and "_target_" in node:
            found[name] = _line(node)
        elif name in ("methods", "lms", "objectives") and isinstance(node, dict):
            found[name] = "; ".join(_line(part) for part in node.values() if isinstance(part, dict))
    return {"seed": str(cfg.seed), **found}


def state(job: Job) -> str:
    """Say what becomes of a job: it is finished, on its way, held by another process, goes on, or begins."""
    status = read_result(job.dir).get("status")
    if status == "finished" and job.cfg.resume != "never":
        return "finished: its result is shown"
    there, who = on_its_way(job)
    if there or (who := holder(job.dir)):
        return f"{there or 'held'}: {who}"
    if (job.dir / CHECKPOINTS / "last.ckpt").is_file() and job.cfg.resume != "never":
        return f"continues from {CHECKPOINTS}/last.ckpt"
    return "begins"


def measured(job: Job) -> str:
    """Say what finished runs of the same data, model and length took."""
    alike = _alike(OmegaConf.to_container(job.cfg, resolve=True))
    rows = [
        row
        for row in ledger_of(job.cfg).latest().values()
        if row.get("status") == "finished" and not row.get("resumed") and _alike(row.get("config") or {}) == alike
    ]
    if not rows:
        return "no finished run of these data, this model and this length yet"
    return f"{_seconds(rows)}, {_memory(rows)}: {len(rows)} finished {'run' if len(rows) == 1 else 'runs'} of the kind"


def _alike(tree: Any) -> dict[str, Any]:
    cfg = OmegaConf.create(tree)
    return {key: OmegaConf.select(cfg, key) for key in ALIKE}


def _seconds(rows: Sequence[Mapping[str, Any]]) -> str:
    return f"time {timedelta(seconds=round(statistics.median(row['seconds'] for row in rows)))}"


def _memory(rows: Sequence[Mapping[str, Any]]) -> str:
    host = max(row.get("peak_memory_mb") or 0 for row in rows)
    cuda = max(row.get("peak_cuda_mb") or 0 for row in rows)
    return f"memory {host:.0f} MB" + (f" and {cuda:.0f} MB of the accelerator" if cuda else "")


def _line(node: Mapping[str, Any]) -> str:
    keys = ", ".join(f"{k}={v}" for k, v in node.items() if not k.startswith("_") and not isinstance(v, dict))
    text = f"{node.get('_target_', '')}({keys})"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
