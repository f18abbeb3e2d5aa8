"""The front door of a program: check every job of the command line, run them through Hydra, report how each ended.

    python -m asgml.run experiment=cremad_mini asgml.tau=2            one run
    python -m asgml.run -m experiment=cremad_mini asgml.tau=0,1,2     a sweep
    python -m asgml.run -m … --failed-only                            of a sweep, what failed or was stopped
    python -m asgml.run … plan=true                                   what it would run and take; nothing runs

    python -m asgml.run -m … launcher=processes launcher.jobs=4       four jobs at a time; launcher=slurm: on a cluster

Exit codes: 0 if all jobs have finished (now or before; with `launcher.wait=false`: or are on their way), 1 if one
failed, 2 if the user's input is at fault or another process holds a run, 3 if all have finished and one did not reach
what it was to reach (`accepted: false` in its result), 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.markup import escape

from callbacks.errors import UserError
from suite.config.check import Dead
from suite.config.compose import VERSION_BASE, Composer, pin_hydra, primary
from suite.config.instantiate import build_node
from suite.launchers.devices import StrayRank, refuse_idle_rank, refuse_stray_rank
from suite.launchers.sweep import Launcher, Sweep, finished_before, program_of
from suite.runs import known
from suite.runs.about import LIST, About, help_page, show_list
from suite.runs.display import (
    console,
    failure_table,
    finished,
    result_table,
    reused,
    sweep_table,
    unfinished,
    varying,
)
from suite.runs.foreseen import PLAN, Foresee, show_plan
from suite.runs.identity import run_dir, runs_root
from suite.runs.job import Again, Earlier, Run, Task, execute, is_main_process, ledger_of
from suite.runs.outcome import Outcome
from suite.runs.planned import PlannedJobs
from suite.runs.planning import (
    FAILED_ONLY,
    HYDRA_SETTINGS,
    Judge,
    arguments_of,
    composed,
    extra_dirs,
    judged,
    opened,
    plan,
    refuse_other_configs,
)
from suite.runs.provenance import read_result
from suite.runs.record import release_memory, uncollected
from suite.runs.surroundings import make_folders, open_streams

__all__ = ["Run", "Task", "launch", "plan", "worse"]

NOT_ACCEPTED = 3
SEVERITY = (0, NOT_ACCEPTED, UserError.EXIT_CODE, 1)  # of exit codes, least first


def launch(
    program: str,
    task: Task,
    dead: Dead | None = None,
    *,
    schema: type | None = None,
    earlier: Earlier | None = None,
    judge: Judge | None = None,
    again: Again | None = None,
    about: About | None = None,
    foresee: Foresee | None = None,
    config_dir: Path | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Run a program from its command line.

    Args:
        program: the program's name, and that of its primary config `<config_dir>/<program>/config.yaml`; see
            `suite.config.compose.Composer`.
        task: the function that does one run; it gets the tree and a `Run`, and returns `val`, `test`, `val_best`,
            `test_best`, `counters` and whatever else belongs into `result.json`, `accepted: false` for a run that has
            not reached what it was to reach. It raises UserError for bad input, and
            SystemExit(143) after SIGTERM, once everything is saved.
        dead: the keys without effect under a tree, with the reason; see `suite.config.check.check_effective`.
        schema: the dataclass of the plain nodes of the tree; see `suite.config.check.check`.
        earlier: the function from a tree to the files of earlier runs that it names, by key.
        judge: what refuses a tree whose parts cannot be built or do not fit each other, whatever the data; it is asked
            about every job before the first one runs.
        again: what asks a finished run what the tree wants to know of it, see `suite.runs.job.execute`.
        about: what `--help` and `list` show; without it they are Hydra's.
        foresee: what `plan=true` shows of a run beside its configuration and what was measured.
        config_dir: the folder of the YAML files; None is `suite.config.compose.conf_dir()`.
        argv: the arguments in place of `sys.argv[1:]`.

    Raises:
        SystemExit: with the codes of this module, unless all is well.
    """
    open_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    failed_only = FAILED_ONLY in arguments
    plans = PLAN in arguments
    arguments = opened([a for a in arguments if a not in (FAILED_ONLY, PLAN)], schema)
    try:
        refuse_stray_rank()
        args = arguments_of(arguments)
        refuse_other_configs(args, program)
        if about is not None and (args.help or args.overrides[:1] == [LIST]):
            composer = Composer(program, config_dir, extra_dirs(args))
            if args.help:
                print(help_page(about, composer))
            else:
                show_list(about, composer, args.overrides[1:])
            return
        if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
            if args.cfg:
                Composer(program, config_dir, extra_dirs(args)).with_hydra(args.overrides)
            _through_hydra(program, config_dir, arguments, _not_a_run)
            return
        jobs = composed(program, args, config_dir, schema)
        if not (jobs.multirun or failed_only or plans) and is_main_process():
            found = known.recall(program, jobs.trees[0], jobs.typed(0))
            if found is not None:
                if code := _told_again(*found):
                    raise SystemExit(code)
                return
        with uncollected():  # the heavy modules come in here
            planned = judged(jobs, dead, schema, judge)
        if plans:
            show_plan(planned, foresee)
            return
        if planned.local:
            for job in planned.jobs:
                refuse_idle_rank(job.cfg)
        make_folders(runs_root(job.cfg) for job in planned.jobs)
    except UserError as error:
        _fail(error)
    code, ended = 0, dict[int, Outcome]()
    try:
        if not planned.local:
            code, ended = _elsewhere(program, planned, task, earlier, again, failed_only)
        else:
            runner = _JobRunner(program, task, earlier, again, failed_only, planned)
            ended = runner.outcomes
            _through_hydra(program, config_dir, _before_overrides(arguments, args, HYDRA_SETTINGS), runner)
    except UserError as error:
        _fail(error)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    if not is_main_process():
        if code:
            raise SystemExit(code)
        return
    outcomes: list[Outcome] = []
    for number, job in enumerate(planned.jobs):
        if job.same_as is None:
            outcomes.append(ended.get(number) or Outcome(job.hash, job.dir, "not started"))
        else:
            first = outcomes[job.same_as]
            status = first.status if first.status == "not started" else "same"
            outcomes.append(replace(first, status=status, error=""))
    _show(planned, outcomes)
    failed = [o for o in outcomes if o.status in ("failed", "held")]
    if code == 0 and failed:
        code = UserError.EXIT_CODE if all(o.user_error for o in failed) else 1
    if code == 0 and any(not o.accepted for o in outcomes):
        code = NOT_ACCEPTED
    if code:
        raise SystemExit(code)


def worse(one: int, other: int) -> int:
    """Return the exit code of two commands together: the more severe one."""
    return max(one, other, key=lambda code: SEVERITY.index(code) if code in SEVERITY else len(SEVERITY))


def _elsewhere(
    program: str, planned: PlannedJobs, task: Task, earlier: Earlier | None, again: Again | None, failed_only: bool
) -> tuple[int, dict[int, Outcome]]:
    """Hand the jobs that are not finished to the launcher; return the code of a stop, and how the jobs have ended."""
    left, outcomes = list[int](), dict[int, Outcome]()
    for number, job in enumerate(planned.jobs):
        if job.same_as is not None:
            continue
        if failed_only and not _to_repeat(job.cfg, job.dir, job.hash):
            outcomes[number] = Outcome(job.hash, job.dir, "skipped", read_result(job.dir))
        elif finished_before(job, earlier, again):
            outcomes[number] = execute(job.cfg, program, task, earlier, tell, again)
        else:
            left.append(number)
    if not left:
        return 0, outcomes
    launcher: Launcher = build_node(planned.jobs[0].cfg.launcher)
    return launcher.run(Sweep(program_of(task), planned.jobs, left, outcomes)), outcomes


class _JobRunner:
    """What Hydra calls for each job. It catches everything, because Hydra shows only the first failure of a sweep."""

    def __init__(
        self,
        program: str,
        task: Task,
        earlier: Earlier | None,
        again: Again | None,
        failed_only: bool,
        planned: PlannedJobs,
    ):
        self.program, self.task, self.earlier, self.again = program, task, earlier, again
        self.failed_only = failed_only
        self.total = len(planned.jobs) if planned.multirun else 0
        self.jobs = planned.jobs
        self.same = [(job.same_as, job.idle) for job in planned.jobs]
        own = [job.overrides for job in planned.jobs]
        self.told = varying(own) if self.total else own
        self.outcomes: dict[int, Outcome] = {}

    def time_left(self, number: int) -> str:
        """Say how long the jobs of a sweep from this one on will take, at the mean time of those that ran before."""
        took = [o.result["seconds"] for o in self.outcomes.values() if o.status == "finished"]
        left = sum(same_as is None for same_as, _ in self.same[number:])
        return f"  [dim]ETA {timedelta(seconds=round(left * sum(took) / len(took)))}[/]" if took else ""

    def __call__(self, cfg: DictConfig) -> None:
        pin_hydra(cfg)
        folder = run_dir(cfg)
        run_hash = folder.name
        number = HydraConfig.get().job.num if self.total else 0
        same_as, idle = self.same[number]
        if is_main_process():
            if same_as is None and self.failed_only and not _to_repeat(cfg, folder, run_hash):
                self.outcomes[number] = Outcome(run_hash, folder, "skipped", read_result(folder))
                return
            if self.total:
                overrides = escape(" ".join(HydraConfig.get().overrides.task))
                left = self.time_left(number)
                console().print(f"[bold]job {number + 1}/{self.total}[/] {overrides}{left}", highlight=False)
            if same_as is not None:
                tell(f"the same run as job {same_as + 1}: {idle}")
                return
            console().print(escape(str(folder)), style="dim", highlight=False, soft_wrap=True)
            if idle and not self.total:
                tell(idle)
        if self.outcomes:
            release_memory()
        try:
            outcome = execute(cfg, self.program, self.task, self.earlier, tell, self.again, self.told[number])
            if not self.total and is_main_process():
                stands_on = {} if self.earlier is None else self.earlier(cfg)
                known.remember(self.program, self.jobs[0], outcome, stands_on)
        except Exception as error:
            if not is_main_process():
                raise
            outcome = Outcome(run_hash, folder, "failed", {})
            outcome.ended_by(error)  # the result itself could not be written
            if not outcome.user_error:
                traceback.print_exc()
        self.outcomes[number] = outcome
        if outcome.status in ("skipped", "evaluated") and is_main_process():
            tell(reused(outcome))
        elif outcome.status == "finished" and not self.total and is_main_process():
            if (table := result_table(outcome.result)) is not None:
                console().print(table)
            tell(finished(outcome))
        if outcome.status in ("failed", "held") and outcome.user_error:
            print(outcome.error, file=sys.stderr)
        if (outcome.exit_code or (outcome.status == "failed" and not outcome.user_error)) and is_main_process():
            tell(unfinished(outcome))
        if outcome.exit_code:
            raise SystemExit(outcome.exit_code)  # ends a sweep at once


def _before_overrides(arguments: list[str], args: argparse.Namespace, more: Sequence[str]) -> list[str]:
    """Return the command line with more overrides before the user's own, which then win."""
    place = arguments.index(args.overrides[0]) if args.overrides else 0  # behind --info they would be its value
    return [*arguments[:place], *more, *arguments[place:]]


def _through_hydra(
    program: str, config_dir: Path | None, arguments: list[str], job: Callable[[DictConfig], None]
) -> None:
    folder, name, shared = primary(program, config_dir)
    args = arguments_of(arguments)
    search = [f"hydra.searchpath=[{','.join(repr(f'file://{f}') for f in shared)}]"]
    if args.shell_completion and "COMP_LINE" in os.environ:  # Hydra completes from that line alone
        command, blank, typed = os.environ["COMP_LINE"].partition(" ")
        os.environ["COMP_LINE"] = f"{command} {search[0]}{blank}{typed}"
    before = sys.argv
    # `hydra.main` reads it; so does Lightning when it starts the other ranks.
    sys.argv = [before[0], *_before_overrides(arguments, args, search)]
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(folder), config_name=name)(job)()
    finally:
        sys.argv = before


def _told_again(outcome: Outcome, idle: str) -> int:
    """Show a run that is known to be finished, and return the exit code."""
    console().print(escape(str(outcome.dir)), style="dim", highlight=False, soft_wrap=True)
    if idle:
        tell(idle)
    tell(reused(outcome))
    return 0 if outcome.accepted else NOT_ACCEPTED


def tell(line: str) -> None:
    """Print one line about a job."""
    console().print(escape(line), style="yellow", highlight=False, soft_wrap=True)


def _to_repeat(cfg: DictConfig, folder: Path, run_hash: str) -> bool:
    """Return whether a run's newest row says that it failed or was stopped, or it was killed without a row."""
    row = ledger_of(cfg).latest().get(run_hash)
    if row is not None and row.get("status") in ("failed", "stopped"):
        return True
    try:
        return read_result(folder).get("status") == "running"  # as a killed run has left it
    except UserError:
        return True  # it says itself what is wrong with it


def _show(planned: PlannedJobs, outcomes: Sequence[Outcome]) -> None:
    if not planned.multirun:
        return
    console().print(sweep_table([job.overrides for job in planned.jobs], outcomes))
    failures = failure_table(outcomes)
    if failures is not None:
        console().print(failures)
        console().print(f"to repeat only these, add {FAILED_ONLY} to the same command")
    if missed := [str(number) for number, outcome in enumerate(outcomes, 1) if not outcome.accepted]:
        console().print(f"not accepted: {'job' if len(missed) == 1 else 'jobs'} {', '.join(missed)}")
    places = {(str(job.cfg.paths.runs), str(job.cfg.name)) for job in planned.jobs}
    if len(places) == 1 and any(outcome.status in ("finished", "skipped") for outcome in outcomes):
        runs, name = places.pop()
        tell(f"one page of them: {shlex.join(['python', '-m', 'suite.report', runs, '--name', name])}")


def _not_a_run(cfg: DictConfig) -> None:
    raise AssertionError("Hydra was asked to show something, not to run")


def _fail(error: UserError) -> NoReturn:
    if isinstance(error, StrayRank) or is_main_process():
        print(error, file=sys.stderr)
    raise SystemExit(UserError.EXIT_CODE)
