"""Processes: the jobs of a sweep on this machine, several at a time."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Annotated

from callbacks.errors import UserError
from callbacks.ranges import Bounds
from suite.launchers.devices import refuse_several
from suite.launchers.progress import Progress
from suite.launchers.sweep import Sweep
from suite.launchers.work import read_outcome
from suite.runs.planned import Job
from suite.runs.stopping import EXIT_INTERRUPT, sigterm_exits

Jobs = Annotated[int, Bounds("1 to 1024 processes", ge=1, le=1024, example=2)]
THREADS = "OMP_NUM_THREADS"
WORKER = [sys.executable, "-m", "suite.launchers.worker"]
LOOK = 0.5  # seconds between two looks at processes that say nothing


class Processes:
    """Runs the jobs of a sweep in processes of this machine, several at a time; each does one job after the other.

    A process has its share of the cores as threads (`OMP_NUM_THREADS`, unless it is set), and where there are several
    GPUs one of them, in turn. What a job prints goes to a file of its own below `<paths.runs>/.sweeps`. A job that
    needs the run of another one, such as a teacher's, and does not find it finished is tried once more when the jobs
    that stand before it have ended. Ctrl-C and SIGTERM stop all jobs after the step under way, saved.

    Example::

        python -m asgml.run -m experiment=cremad_mini seed=0,1,2,3 launcher=processes launcher.jobs=2

    Limits: one device per job. Results equal those of a serial sweep to the last bit only with as many threads.

    Args:
        jobs: the number of jobs at a time.
    """

    remote = False

    def __init__(self, jobs: Jobs = 2):
        self.at_a_time = jobs

    def judge(self, jobs: Sequence[Job], multirun: bool) -> None:
        """Refuse jobs of several devices, and a command line of one job.

        Raises:
            UserError: either.
        """
        if not multirun:
            raise UserError(
                "launcher=processes",
                "a command line of one job",
                "a sweep, of several",
                "add -m, or leave launcher out",
            )
        for job in jobs:
            refuse_several(job.cfg)

    def run(self, sweep: Sweep) -> int:
        """Run the jobs that are left, enter how each ended, and return the exit code of a stop, 0 without one."""
        groups = sweep.groups()
        code = _Pool(sweep, min(self.at_a_time, len(groups))).run(groups)
        sweep.tidy()
        return code


class _Worker:
    """A process that does one job after the other, and says when it has done one."""

    def __init__(self, sweep: Sweep, environment: dict[str, str]):
        self.replies, theirs = os.pipe()
        self.process = subprocess.Popen(
            [*WORKER, sweep.program, "--replies", str(theirs)],
            stdin=subprocess.PIPE,
            pass_fds=(theirs,),
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which stops its workers one by one
        )
        os.close(theirs)

    def ask(self, path: os.PathLike[str]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{path}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # it has died; the pool sees that when it looks

    def close(self) -> None:
        """Let it end, and wait until it has."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            self.process.kill()
        self.process.wait()
        os.close(self.replies)


class _Pool:
    def __init__(self, sweep: Sweep, size: int):
        self.sweep, self.size = sweep, size
        self.progress = Progress(sweep, size)
        self.environments = _environments(size)
        self.workers: dict[int, _Worker] = {}  # by place
        self.doing: dict[int, list[int]] = {}  # by place: the jobs of its run, the one under way first
        self.before: dict[int, set[int]] = {}  # by job: those that stand before it and had not ended when it began
        self.later: list[int] = []  # jobs to be tried once more when these have ended
        self.selector = selectors.DefaultSelector()

    def run(self, groups: list[list[int]]) -> int:
        waiting = deque(groups)
        with ExitStack() as stack:
            stack.enter_context(self.selector)
            stack.callback(self._close)
            try:
                with sigterm_exits():
                    while waiting or self.doing or self.later:
                        self._give(waiting)
                        self._look()
            except (KeyboardInterrupt, SystemExit) as end:
                self._stop()
                return end.code if isinstance(end, SystemExit) and isinstance(end.code, int) else EXIT_INTERRUPT
        return max((o.exit_code for o in self.sweep.outcomes.values()), default=0)

    def _give(self, waiting: deque[list[int]]) -> None:
        for place in range(self.size):
            if place in self.doing:
                continue
            ready = next((n for n in self.later if self.before[n] <= self.sweep.outcomes.keys()), None)
            if ready is not None:
                self.later.remove(ready)
                self.before[ready] = set()
                self._begin(place, [ready])
            elif waiting:
                group = waiting.popleft()
                for number in group:
                    self.before[number] = {n for n in self.sweep.left if n < group[0]} - self.sweep.outcomes.keys()
                self._begin(place, group)

    def _begin(self, place: int, group: list[int]) -> None:
        if place not in self.workers:
            worker = self.workers[place] = _Worker(self.sweep, self.environments[place])
            self.selector.register(worker.replies, selectors.EVENT_READ, place)
        self.doing[place] = group
        self.progress.begins(group[0])
        self.workers[place].ask(self.sweep.files[group[0]])

    def _look(self) -> None:
        for key, _ in self.selector.select(LOOK):
            if os.read(key.fd, 1 << 16):
                self._ended(key.data)
        for place in [p for p in self.doing if self.workers[p].process.poll() is not None]:
            self._ended(place)

    def _ended(self, place: int) -> None:
        """Enter the job of a worker that says it has done it, or has died at it."""
        number, *others = self.doing.pop(place)
        worker = self.workers[place]
        outcome = read_outcome(self.sweep.files[number])
        if outcome is None:
            code = worker.process.wait()
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            outcome = self.sweep.without_a_word(number, f"its process was ended {how}")
        if outcome.exit_code or worker.process.poll() is not None:
            self.selector.unregister(worker.replies)
            self.workers.pop(place).close()
        needs_another = outcome.status == "failed" and outcome.user_error
        if needs_another and self.before[number]:
            self.later.append(number)
            self.progress.waits(number, outcome)
        else:
            self.sweep.outcomes[number] = outcome
            self.progress.ended(number, outcome, self.sweep.files[number])
        if others:
            self._begin(place, others)

    def _stop(self) -> None:
        """Stop what is under way as SIGTERM does, and enter it; once more from outside, and it is killed."""
        self.progress.stops()
        try:
            self._signal(lambda process: process.terminate())
        except (KeyboardInterrupt, SystemExit):
            self._signal(lambda process: process.kill())
        for number, *_ in self.doing.values():
            outcome = read_outcome(self.sweep.files[number])
            self.sweep.outcomes[number] = outcome or self.sweep.stopped(number)

    def _signal(self, send: Callable[[subprocess.Popen[bytes]], None]) -> None:
        with sigterm_exits():
            processes = [self.workers[place].process for place in self.doing]
            for process in processes:
                send(process)
            for process in processes:
                process.wait()

    def _close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def _environments(size: int) -> list[dict[str, str]]:
    """Return the environment of each of so many workers: its share of the cores, and one GPU of several."""
    import torch

    common = dict(os.environ)
    common.setdefault(THREADS, str(max(1, len(os.sched_getaffinity(0)) // size)))
    count = torch.cuda.device_count()
    if count < 2:
        return [common] * size
    named = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d.strip()]
    devices = named or [str(number) for number in range(count)]
    return [{**common, "CUDA_VISIBLE_DEVICES": devices[place % len(devices)]} for place in range(size)]
