"""One run from a tree that is there already, without Hydra: checked, run and told as `suite.runs.launch` does it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import DictConfig
from rich.markup import escape

from callbacks.errors import UserError
from suite.config.check import check
from suite.config.trainer import check_trainer
from suite.launchers.devices import refuse_idle_rank, refuse_stray_rank
from suite.runs.display import console, finished, result_table, reused, unfinished
from suite.runs.foreseen import Foresee, show_plan
from suite.runs.identity import runs_root
from suite.runs.job import execute, is_main_process
from suite.runs.launch import NOT_ACCEPTED, tell
from suite.runs.planned import PlannedJobs, job_of
from suite.runs.study import Program
from suite.runs.surroundings import make_folders


def run_tree(
    program: Program, cfg: DictConfig, typed: Sequence[str], plans: bool = False, foresee: Foresee | None = None
) -> int:
    """Check a tree and do its run; return the exit code of `suite.runs.launch`.

    Args:
        program: the program.
        cfg: the tree.
        typed: the overrides that the user typed.
        plans: whether the run is only shown (`plan=true`).
        foresee: what the program knows of a run beforehand, for the plan.

    Raises:
        UserError: a tree that cannot be run.
    """
    from suite.shell import judge_optimizer, judge_trainer

    check(cfg, program.schema)
    check_trainer(cfg)
    if program.judge is not None:
        judge_trainer(cfg)
        judge_optimizer(cfg)
        program.judge(cfg)
    job = job_of(cfg, list(typed))
    refuse_stray_rank()
    refuse_idle_rank(cfg)
    if plans:
        show_plan(PlannedJobs([job], multirun=False, local=True), foresee)
        return 0
    make_folders([runs_root(cfg)])
    main = is_main_process()
    if main:
        console().print(escape(str(job.dir)), style="dim", highlight=False, soft_wrap=True)
    outcome = execute(cfg, program.name, program.task, program.earlier, tell, program.again)
    if not main:
        return outcome.exit_code
    if outcome.status in ("skipped", "evaluated"):
        tell(reused(outcome))
    elif outcome.status == "finished":
        if (table := result_table(outcome.result)) is not None:
            console().print(table)
        tell(finished(outcome))
    elif outcome.user_error:
        print(outcome.error, file=sys.stderr)
    else:
        tell(unfinished(outcome))
    if outcome.exit_code:
        return outcome.exit_code
    if outcome.status in ("failed", "held"):
        return UserError.EXIT_CODE if outcome.user_error else 1
    return 0 if outcome.accepted else NOT_ACCEPTED
