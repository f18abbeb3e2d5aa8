"""From a command line to its jobs: composed, expanded as Hydra's sweeper does it, and checked.

What a command line says by itself, unknown keys and options and the values of plain keys, is refused first, of all jobs
at once: that takes no class of any part, and so neither torch nor Lightning.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn, TypeVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import filter_overrides
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.progress import track

from callbacks.errors import UserError
from suite.config.check import Dead, check, check_effective
from suite.config.compose import Composer, merge_errors, without_hydra
from suite.config.instantiate import build_node
from suite.config.trainer import check_trainer, refuse_elsewhere
from suite.launchers.devices import refuse_missing_peers, refuse_several
from suite.launchers.sweep import is_remote, launcher_node
from suite.runs.display import console
from suite.runs.planned import PlannedJobs, job_of, join_twins

Judge = Callable[[DictConfig], None]
T = TypeVar("T")

FAILED_ONLY = "--failed-only"
LEFT_OUT = "left out"  # metadata of the field of a schema
_LOCAL_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_LOCAL_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"

# Hydra's own files go beside the runs, and its loggers stay silent; the user's overrides come later and win.
HYDRA_SETTINGS = (
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
    "hydra.output_subdir=null",
    "hydra.run.dir=${paths.runs}/.hydra",
    "hydra.sweep.dir='${paths.runs}/.hydra/${now:%Y-%m-%d_%H-%M-%S}'",
    "hydra.sweep.subdir=.",
)


@dataclass
class Composed:
    """The jobs of a command line as far as YAML and overrides say what they are.

    Attributes:
        program: the program.
        composer: what has composed them.
        lines: the overrides of each job.
        trees: its tree.
        multirun: whether the command line is a sweep.
        local: whether the jobs run in this process, one after the other.
    """

    program: str
    composer: Composer
    lines: list[list[str]]
    trees: list[DictConfig]
    multirun: bool
    local: bool

    def typed(self, number: int) -> list[str]:
        """Return what the user typed for a job."""
        return [o for o in filter_overrides(self.lines[number]) if not o.startswith("hydra/")]


def plan(
    program: str,
    argv: Sequence[str],
    config_dir: Path | None = None,
    dead: Dead | None = None,
    schema: type | None = None,
) -> PlannedJobs:
    """Compose and check every job of a command line and run none; arguments as in `launch`.

    Raises:
        UserError: one error with all that is wrong.
    """
    args = arguments_of(opened([a for a in argv if a != FAILED_ONLY], schema))
    return judged(composed(program, args, config_dir, schema), dead, schema)


def opened(words: Sequence[str], schema: type | None) -> list[str]:
    """Return a command line whose keys of nodes that the tree may leave out, and leaves out, need no `+`.

    Args:
        words: the command line.
        schema: the dataclass of the plain nodes; fields with the metadata `LEFT_OUT` are meant.
    """
    names = [f.name for f in fields(schema) if LEFT_OUT in f.metadata] if schema is not None else []
    return [f"++{word}" if re.split(r"[.=]", word, maxsplit=1)[0] in names and "=" in word else word for word in words]


def arguments_of(arguments: Sequence[str]) -> argparse.Namespace:
    """Return a command line as Hydra reads it.

    Raises:
        UserError: a flag that Hydra does not have, or one without its value.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        flags = message.removeprefix("unrecognized arguments: ")
        expected = "key=value, group=option, or a flag that --help shows"
        if flags == message:
            raise UserError("command line", message, expected, "give the flag its value, or leave it out")
        key = flags.split()[0].lstrip("-").partition("=")[0]
        raise UserError(flags, "no such flag", expected, f"leave it out; a key is typed without dashes: {key}=VALUE")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(list(arguments))


def composed(
    program: str, args: argparse.Namespace, config_dir: Path | None = None, schema: type | None = None
) -> Composed:
    """Compose every job of a command line and check what needs no class of any part.

    Raises:
        UserError: one error with all that is wrong.
    """
    refuse_elsewhere(args.overrides)
    composer = Composer(program, config_dir, extra_dirs(args))
    given = [*HYDRA_SETTINGS, *args.overrides]
    mode = RunMode.MULTIRUN if args.multirun or _mode(args.overrides) == "MULTIRUN" else RunMode.RUN
    master = composer.with_hydra(given, mode)
    if master.hydra.launcher._target_ != _LOCAL_LAUNCHER:
        remedy = "leave hydra/launcher out; launcher=processes and launcher=slurm run jobs elsewhere"
        raise UserError("hydra/launcher", str(master.hydra.launcher._target_), "the basic launcher", remedy)
    if mode == RunMode.MULTIRUN:
        own = list(master.hydra.overrides.hydra)
        lines = [[*own, *job] for job in _expand(composer, master)]
    else:
        lines = [given]
    trees, problems = [], []
    for overrides in _tracked(lines, "composing jobs"):
        try:
            cfg = composer.compose(overrides) if mode == RunMode.MULTIRUN else without_hydra(master)
            check(cfg, schema, targets=False)
            check_trainer(cfg)
            trees.append(cfg)
        except UserError as error:
            problems.append(error)
    _refuse(problems, program, len(lines))
    return Composed(program, composer, lines, trees, mode == RunMode.MULTIRUN, launcher_node(trees[0]) is None)


def judged(
    jobs: Composed, dead: Dead | None = None, schema: type | None = None, judge: Judge | None = None
) -> PlannedJobs:
    """Check every composed job against the classes of its parts, and say which run each is; arguments as in `launch`.

    Raises:
        UserError: one error with all that is wrong.
    """
    found, problems = [], []
    for number, cfg in enumerate(_tracked(jobs.trees, "checking jobs")):
        try:
            check(cfg, schema)
            if dead is not None:
                check_effective(cfg, jobs.lines[number], dead, jobs.composer.compose)
            if judge is not None:
                _judge_trainer(cfg)
                judge(cfg)
            found.append(job_of(cfg, jobs.typed(number)))
        except UserError as error:
            problems.append(error)
    _refuse(problems, jobs.program, len(jobs.trees))
    join_twins(found)
    node = launcher_node(found[0].cfg)
    if node is not None:
        build_node(node).judge(found, jobs.multirun)
    elif jobs.multirun:
        for job in found:
            refuse_several(job.cfg)
    return PlannedJobs(found, jobs.multirun, jobs.local)


def _judge_trainer(cfg: DictConfig) -> None:
    from suite.shell import judge_loggers, judge_optimizer, judge_trainer

    if not is_remote(cfg):
        judge_trainer(cfg)
        refuse_missing_peers(cfg)
    judge_optimizer(cfg)
    judge_loggers(cfg)


def _tracked(jobs: Sequence[T], what: str) -> Iterable[T]:
    return track(jobs, what, console=console(), transient=True, disable=len(jobs) < 20)


def _refuse(problems: Sequence[UserError], program: str, jobs: int) -> None:
    if problems:
        raise merge_errors(problems, f"{len(problems)} of {jobs} jobs" if jobs > 1 else program)


def _expand(composer: Composer, master: DictConfig) -> list[list[str]]:
    """Return the overrides of each job of a sweep, as Hydra's BasicSweeper makes them."""
    sweeper = master.hydra.sweeper
    if sweeper._target_ != _LOCAL_SWEEPER:
        raise UserError("hydra/sweeper", str(sweeper._target_), "the basic sweeper", "leave hydra/sweeper out")
    lines = [f"{k}={v}" for k, v in (sweeper.params or {}).items()] + list(master.hydra.overrides.task)
    parsed = OverridesParser.create(config_loader=composer.loader).parse_overrides(lines)
    for override in parsed:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            remedy = f"list the values: {override.key_or_group}=1,2,3"
            raise UserError(override.input_line or "", "an interval", "values to enumerate", remedy)
    jobs = BasicSweeper.split_arguments(parsed, None)[0]
    if not jobs:
        empty = next(o for o in parsed if o.is_sweep_override() and not list(o.sweep_string_iterator()))
        line, key = empty.input_line or "", empty.key_or_group
        raise UserError(line, "a sweep over nothing", "one value or more", f"list them: {key}=1,2,3")
    return jobs


def _mode(overrides: Sequence[str]) -> str | None:
    return next((o.partition("=")[2].upper() for o in reversed(overrides) if o.startswith("hydra.mode=")), None)


def refuse_other_configs(args: argparse.Namespace, program: str) -> None:
    for flag in ("config_name", "config_path", "experimental_rerun"):
        if getattr(args, flag) is not None:
            raise UserError(
                f"--{flag.replace('_', '-')}",
                str(getattr(args, flag)),
                f"the program's own config, {program}.yaml",
                "put your own YAML files into a folder and add it: --config-dir FOLDER",
            )
    if args.resolve and not args.cfg:
        raise UserError("--resolve", "nothing to show", "--cfg job --resolve", "add --cfg job, or leave --resolve out")
    if args.shell_completion and not args.overrides and "COMP_LINE" not in os.environ:
        expected = "install=SHELL, uninstall=SHELL or query=SHELL behind it"
        raise UserError("--shell-completion", "nothing to do", expected, "type --shell-completion install=bash")


def extra_dirs(args: argparse.Namespace) -> list[Path]:
    return [] if args.config_dir is None else [Path(args.config_dir)]
