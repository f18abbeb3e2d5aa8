"""A sweep on its way to a launcher: which of its jobs are left to do, and which of them share a run."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError
from callbacks.run.inputs import differing
from suite.config.signature import locate
from suite.launchers.work import ended_of, log_of, write_work
from suite.runs.display import varying
from suite.runs.identity import evaluation_hash, fingerprints, runs_root
from suite.runs.inputs import all_files
from suite.runs.job import Again, Earlier, Task
from suite.runs.outcome import Outcome
from suite.runs.planned import Job
from suite.runs.provenance import CONFIG, read_result
from suite.runs.stopping import EXIT_SIGTERM

FOLDER = ".sweeps"  # below paths.runs


class Launcher(Protocol):
    """Runs jobs somewhere else than in the process of their command line."""

    remote: bool  # whether on other machines, whose devices are not those of this one

    def judge(self, jobs: Sequence[Job], multirun: bool) -> None:
        """Refuse, before anything runs, jobs that it cannot run; raises UserError."""

    def run(self, sweep: Sweep) -> int:
        """Run the jobs that are left, enter how each ended, and return the exit code of a stop, 0 without one."""


@dataclass
class Sweep:
    """Holds the jobs of a command line.

    Attributes:
        program: the module of the program, which holds its `PROGRAM`.
        jobs: all jobs.
        left: the numbers of those to be run, from 0.
        outcomes: how the others have ended, by number; the launcher enters the rest.
    """

    program: str
    jobs: Sequence[Job]
    left: list[int]
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        """The folder of its files, made with the first access."""
        begun = time.strftime("%Y-%m-%d_%H-%M-%S")
        folder = runs_root(self.jobs[0].cfg) / FOLDER / f"{begun}_{os.getpid()}"
        folder.mkdir(parents=True)
        return folder

    @cached_property
    def told(self) -> list[list[str]]:
        """What distinguishes each job from the others, as typed."""
        return varying([job.overrides for job in self.jobs])

    @cached_property
    def files(self) -> dict[int, Path]:
        """The file of each job that is left, written with the first access."""
        return {n: write_work(self.folder, n, self.jobs[n], self.told[n]) for n in self.left}

    def without_a_word(self, number: int, how: str, log: Path | None = None) -> Outcome:
        """Return the outcome of a job that left none.

        Args:
            number: the job.
            how: what became of its process.
            log: where that may have printed why; None is the file of what the job prints.
        """
        error = f"{how}, and left no word (out of memory?); what it printed: {log or log_of(self.files[number])}"
        return Outcome(self.jobs[number].hash, self.jobs[number].dir, "failed", error=error)

    def tidy(self) -> None:
        """Remove the files of jobs that went well."""
        for number, path in self.files.items():
            if number in self.outcomes and self.outcomes[number].status in ("finished", "evaluated", "skipped"):
                for file in (path, log_of(path), ended_of(path)):
                    file.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def stopped(self, number: int) -> Outcome:
        """Return the outcome of a job that was ended from here before it left a word."""
        return Outcome(self.jobs[number].hash, self.jobs[number].dir, "stopped", exit_code=EXIT_SIGTERM)

    def groups(self) -> list[list[int]]:
        """Return the jobs that are left, those of one run together: it is trained once, then asked one by one."""
        found: dict[str, list[int]] = {}
        for number in self.left:
            found.setdefault(self.jobs[number].hash, []).append(number)
        return list(found.values())


def launcher_node(cfg: DictConfig) -> DictConfig | None:
    """Return the node of a tree that says who runs its jobs; None for the process of the command line itself."""
    node = OmegaConf.select(cfg, "launcher")
    return node if isinstance(node, DictConfig) else None


def is_remote(cfg: DictConfig) -> bool:
    """Return whether the jobs of a tree run on other machines."""
    node = launcher_node(cfg)
    return node is not None and bool(locate(node._target_).remote)


def program_of(task: Task) -> str:
    """Return the module that a worker imports for a task.

    Raises:
        UserError: the program was started as a file, so that no other process can import it.
    """
    module = task.__module__
    if module == "__main__":
        spec = getattr(sys.modules[module], "__spec__", None)
        module = "" if spec is None else spec.name
    if not module or importlib.util.find_spec(module) is None:
        raise UserError(
            " ".join(sys.argv[:1]),
            "a program that no other process can import",
            "a module, started by its name",
            "start it with python -m PACKAGE.MODULE, or leave launcher out",
        )
    return module


def finished_before(job: Job, earlier: Earlier | None, again: Again | None) -> bool:
    """Return whether a job's run is finished, on the files that are there, and has been asked what the job asks."""
    cfg = job.cfg
    if cfg.resume == "never":
        return False
    result = read_result(job.dir)
    if result.get("status") != "finished":
        return False
    stands_on = {} if earlier is None else earlier(cfg)
    if differing(result.get("inputs"), fingerprints(cfg, all_files(cfg, stands_on))):
        return False
    return again is None or _asked(cfg, job.dir / CONFIG)


def _asked(cfg: DictConfig, stored: Path) -> bool:
    if not stored.is_file():
        return False
    before = OmegaConf.load(stored)
    assert isinstance(before, DictConfig)
    return evaluation_hash(before) == evaluation_hash(cfg)
