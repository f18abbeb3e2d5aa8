"""Slurm: the jobs of a sweep as one array on a cluster, through submitit."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Bounds, Count, Positive, Steps
from suite.launchers.devices import devices, nodes
from suite.launchers.progress import Progress
from suite.launchers.submissions import Submission, remember, submitted
from suite.launchers.submitted import run_jobs
from suite.launchers.sweep import Sweep
from suite.launchers.work import read_outcome
from suite.runs.lock import holder
from suite.runs.outcome import Outcome
from suite.runs.planned import Job
from suite.runs.stopping import EXIT_INTERRUPT, sigterm_exits

Minutes = Annotated[int, Bounds("1 to 525600 minutes", ge=1, le=525600)]
Gpus = Annotated[int, Bounds("0 to 1024 GPUs", ge=0, le=1024)]
Cpus = Annotated[int, Bounds("1 to 4096 cores", ge=1, le=4096)]
Grace = Annotated[int, Bounds("1 to 86400 seconds", ge=1, le=86400)]
LOOK = {"slurm": 5.0, "local": 0.2}  # seconds between two looks at what was submitted


class Slurm:
    """Submits the jobs of a sweep as one SLURM array, waits for them and shows the table; a single run is one job.

    Every job is what it is on one machine: it locks its run, resumes it, and writes result and ledger row, so
    `paths.runs` lies where all nodes see it, on a file system with locks. A job of several devices gets one task for
    each, and `trainer.num_nodes` nodes. `grace_seconds` before its time is over (SIGUSR2) a job finishes its step,
    saves and requeues itself; the requeued job continues. A pre-empted job (SIGTERM) saves, and continues where SLURM
    requeues it (`PreemptMode=REQUEUE`). The same command again shows what is finished, running or queued, and submits
    what is missing or has failed; `plan=true` only shows.

    Examples::

        python -m asgml.run -m experiment=cremad seed=0,1,2 launcher=slurm launcher.partition=gpu launcher.minutes=120
        python -m asgml.run experiment=cremad trainer.devices=4 launcher=slurm launcher.cpus=8 launcher.wait=false
        python -m asgml.run -m experiment=cremad_mini seed=0,1 launcher=slurm launcher.cluster=local   # without SLURM

    Limits: all jobs of a sweep ask for the same devices. Jobs that need the runs of others, such as a teacher's, fail
    if those have not finished; a command that waits tries them once more, otherwise the same command does. With
    `local` all jobs run at once, without GPUs, and only partition, array and memory are ignored.

    Args:
        partition: the partition; null is the cluster's default.
        minutes: the time limit of each job.
        gpus: the number of GPUs on each node; null is `trainer.devices`, none with `trainer.accelerator=cpu`.
        cpus: the number of cores of each task; null is one and those of `loader.workers`.
        memory_gb: the memory of each node in GB; null is the cluster's default.
        parallel: the number of jobs of the array that run at a time.
        setup: the shell lines before each job, such as `module load cuda`.
        options: further options of `sbatch` by name: `{account: mine, constraint: a100}`.
        grace_seconds: the time before its limit at which a job is told to save; more than one step and one checkpoint
            take.
        requeues: how often a job whose time is over requeues itself; pre-emptions are not counted.
        wait: whether the command waits and shows the table; false leaves the jobs on their way.
        cluster: `slurm`, or `local` for processes of this machine in the place of SLURM, to try a command.
    """

    remote = True

    def __init__(
        self,
        partition: Annotated[str, NOT_EMPTY] | None = None,
        minutes: Minutes = 240,
        gpus: Gpus | None = None,
        cpus: Cpus | None = None,
        memory_gb: Positive | None = None,
        parallel: Count = 256,
        setup: list[str] | None = None,
        options: dict[str, str | Steps] | None = None,
        grace_seconds: Grace = 120,
        requeues: Steps = 10,
        wait: bool = True,
        cluster: Literal["slurm", "local"] = "slurm",
    ):
        self.partition, self.minutes, self.gpus, self.cpus, self.memory_gb = partition, minutes, gpus, cpus, memory_gb
        self.parallel, self.setup, self.options = parallel, list(setup or []), dict(options or {})
        self.grace_seconds, self.requeues, self.wait, self.cluster = grace_seconds, requeues, wait, cluster
        self.look = LOOK[cluster]

    def judge(self, jobs: Sequence[Job], multirun: bool) -> None:
        """Refuse what cannot be submitted from here, or not as one array.

        Raises:
            UserError: submitit or SLURM is missing, jobs of unequal devices, or fewer GPUs than devices.
        """
        if importlib.util.find_spec("submitit") is None:
            raise UserError(
                "launcher=slurm",
                "submitit is not installed",
                "the package submitit, which the extra `slurm` brings",
                'pip install "submitit>=1.5.4,<2", or set launcher=processes',
            )
        if self.cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise UserError(
                "launcher=slurm",
                "no sbatch and srun on this machine",
                "a login node of a SLURM cluster",
                "start the command there, or try it here with launcher.cluster=local",
            )
        if self.grace_seconds >= 60 * self.minutes:
            found = f"{self.grace_seconds} s, of {self.minutes} minutes"
            raise UserError(
                "launcher.grace_seconds", found, "less than the time limit", f"set launcher.minutes={self.minutes + 60}"
            )
        asked = {(nodes(job.cfg), devices(job.cfg)) for job in jobs}
        if len(asked) > 1:
            raise UserError(
                "launcher=slurm",
                f"jobs of {' and '.join(_told(*one) for one in sorted(asked, key=str))}",
                "one number of devices in a sweep, which is one array",
                "start one sweep for each number of trainer.devices",
            )
        count = devices(jobs[0].cfg)
        if self.gpus is not None and self.gpus and count is not None and count > self.gpus:
            raise UserError(
                f"launcher.gpus={self.gpus}",
                f"trainer.devices={count}",
                "a GPU for each device",
                f"set launcher.gpus={count}, or leave launcher.gpus out",
            )

    def run(self, sweep: Sweep) -> int:
        """Submit what is not on its way yet, wait for all and enter how it ended; return the code of a stop, or 0."""
        self.progress: Progress | None = None
        code, again = self._round(sweep, sweep.groups())
        if again and not code and self.wait:
            for group in again:
                for number in group:
                    del sweep.outcomes[number]
            code, _ = self._round(sweep, again)
        return code

    def _round(self, sweep: Sweep, groups: list[list[int]]) -> tuple[int, list[list[int]]]:
        """Return the exit code, and the groups that failed for want of what others have finished by now."""
        ways: list[tuple[list[int], Submission]] = []
        fresh = []
        for group in groups:
            job = sweep.jobs[group[0]]
            found = submitted(job)
            if found is not None and found.state(job.dir):
                ways.append((group, found))
            elif owner := holder(job.dir):
                told = f"in use by {owner}"
                sweep.outcomes |= {
                    n: Outcome(job.hash, job.dir, "held", error=told, user_error=True, remarks=[told]) for n in group
                }
            else:
                fresh.append(group)
        if fresh:
            ways += zip(fresh, self._submit(sweep, fresh))
        code = self._wait(sweep, ways) if self.wait else 0
        for group, way in ways:
            state = way.state(sweep.jobs[group[0]].dir)
            for number in [n for n in group if n not in sweep.outcomes]:
                job = sweep.jobs[number]
                sweep.outcomes[number] = Outcome(job.hash, job.dir, state or "queued", remarks=[way.name])
        finished = [n for group in fresh for n in group if sweep.outcomes[n].status == "finished"]
        return code, [
            group
            for group in fresh
            if any(sweep.outcomes[n].status == "failed" and sweep.outcomes[n].user_error for n in group)
            and any(n < group[0] for n in finished)
        ]

    def _submit(self, sweep: Sweep, groups: list[list[int]]) -> list[Submission]:
        """Submit groups of jobs as one array, and note each."""
        from submitit.core.utils import FailedJobError

        executor = self._executor(sweep)
        try:
            with executor.batch():
                submissions = [executor.submit(run_jobs, sweep.program, *_work(sweep, group)) for group in groups]
        except FailedJobError as error:
            remedy = "correct the launcher.* key that it names; plan=true shows the jobs"
            raise UserError(
                "launcher=slurm", " ".join(str(error).split())[-400:], "jobs that sbatch takes", remedy
            ) from error
        found = []
        for group, submission in zip(groups, submissions):
            way = Submission(
                self.cluster,
                submission.job_id,
                socket.gethostname(),
                str(executor.folder),
                time.time(),
                _work(sweep, group),
            )
            remember(sweep.jobs[group[0]], way)
            found.append(way)
        return found

    def _executor(self, sweep: Sweep) -> Any:
        cfg = sweep.jobs[sweep.left[0]].cfg
        count = devices(cfg)
        accelerator = cfg.trainer.get("accelerator")
        gpus = self.gpus if self.gpus is not None else 0 if accelerator == "cpu" else count or 1
        tasks = count or gpus or 1
        folder = sweep.folder / "submitit"
        if self.cluster == "local":
            from submitit.local.local import LocalExecutor

            local = LocalExecutor(folder, max_num_timeout=self.requeues)
            local.update_parameters(timeout_min=self.minutes, signal_delay_s=self.grace_seconds, setup=self.setup)
            return local
        from submitit.slurm.slurm import SlurmExecutor

        loader = cfg.get("loader") or {}
        executor = SlurmExecutor(folder, max_num_timeout=self.requeues)
        parameters: dict[str, Any] = {
            "job_name": f"{cfg.program}-{cfg.name}".replace("/", "-"),
            "time": self.minutes,
            "nodes": nodes(cfg),
            "ntasks_per_node": tasks,
            "cpus_per_task": self.cpus or 1 + int(loader.get("workers") or 0),
            "array_parallelism": self.parallel,
            "signal_delay_s": self.grace_seconds,
            "srun_args": ["--kill-on-bad-exit=1"],  # one rank that dies ends the others, which would wait for it
        }
        if self.partition is not None:
            parameters["partition"] = self.partition
        if gpus:
            parameters["gpus_per_node"] = gpus
        if self.memory_gb is not None:
            parameters["mem"] = f"{round(self.memory_gb * 1024)}MB"
        if self.setup:
            parameters["setup"] = self.setup
        if self.options:
            parameters["additional_parameters"] = self.options
        executor.update_parameters(**parameters)
        return executor

    def _wait(self, sweep: Sweep, ways: Sequence[tuple[list[int], Submission]]) -> int:
        """Enter how each job ends; return the exit code of Ctrl-C or SIGTERM, which leave the jobs on their way."""
        if self.progress is None and ways:
            self.progress = Progress(sweep, min(self.parallel, len(ways)))
        try:
            with sigterm_exits():
                open_ways = list(ways)
                while open_ways:
                    open_ways = [(group, way) for group, way in open_ways if not self._look(sweep, group, way)]
                    time.sleep(self.look if open_ways else 0)
        except (KeyboardInterrupt, SystemExit) as end:
            assert self.progress is not None
            self.progress.leaves([way.name for _, way in ways])
            return end.code if isinstance(end, SystemExit) and isinstance(end.code, int) else EXIT_INTERRUPT
        return 0

    def _look(self, sweep: Sweep, group: list[int], way: Submission) -> bool:
        """Enter the jobs of a submission that have ended; return whether it is over."""
        assert self.progress is not None
        over = not way.state(sweep.jobs[group[0]].dir)
        for number, path in zip(group, way.work):
            if number in sweep.outcomes:
                continue
            outcome = read_outcome(Path(path))
            if outcome is None and over:
                outcome = sweep.without_a_word(number, f"{way.name} is over ({way.told()})", way.log)
            if outcome is not None and (over or not outcome.exit_code):  # one that was stopped may be requeued
                sweep.outcomes[number] = outcome
                self.progress.ended(number, outcome, Path(path))
        return over or all(number in sweep.outcomes for number in group)


def _told(nodes: int, devices: int | None) -> str:
    return f"{'all' if devices is None else devices} devices" + (f" on each of {nodes} nodes" if nodes > 1 else "")


def _work(sweep: Sweep, group: Sequence[int]) -> list[str]:
    return [str(sweep.files[number]) for number in group]
