"""What SLURM starts: jobs of a sweep in a process of their own, stopped, saved and requeued as the cluster says.

submitit stores a call for later with cloudpickle. What is stored here is a reference to `run_jobs`, the name of a
module and the paths of job files, all strings; the jobs themselves are JSON (`suite.launchers.work`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

from suite.runs.stopping import EXIT_SIGTERM

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

LOOK = 0.2  # seconds between two looks at the worker
PATIENCE = 600  # seconds that a saved job waits for SLURM to requeue or to end it


def run_jobs(program: str, *jobs: str) -> int:
    """Do jobs of one run, one after the other, in a worker process, and return its exit code.

    SIGUSR2 (from submitit's `--signal`, ahead of the time limit, or at pre-emption) stops the worker after the step
    under way, saved; submitit then requeues the job, and this function is called again: what is finished is skipped,
    the rest continues. After SIGTERM (pre-emption, `scancel`) the worker is stopped likewise, and the job waits for
    what SLURM does to it: only SLURM knows whether it was to be requeued or cancelled.

    Args:
        program: the module that holds the `PROGRAM`.
        jobs: the files of the jobs.
    """
    number = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
    requeue = signal.getsignal(number)  # as submitit has set it up
    worker = subprocess.Popen(
        [sys.executable, "-m", "suite.launchers.worker", program, *jobs],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    heard = set[int]()

    def stop(signum: int, frame: FrameType | None) -> None:
        if not heard:  # a second one would end it unsaved
            worker.terminate()
        heard.add(signum)

    before = {signum: signal.signal(signum, stop) for signum in (number, signal.SIGTERM)}
    try:
        code = _ended(worker)
        stopped = code in (EXIT_SIGTERM, -signal.SIGTERM)
        patient = time.monotonic() + PATIENCE
        while stopped and number not in heard and signal.SIGTERM in heard and time.monotonic() < patient:
            time.sleep(LOOK)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if worker.poll() is None:  # something else ended this process
            worker.terminate()
            worker.wait()
    if stopped and number in heard and callable(requeue):
        signal.raise_signal(number)
    return code


def _again(program: str, *jobs: str) -> DelayedSubmission:
    """Return the call that a requeued job begins with: the same."""
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(run_jobs, program, *jobs)


def _ended(worker: subprocess.Popen[bytes]) -> int:
    while (code := worker.poll()) is None:
        time.sleep(LOOK)
    return code


run_jobs.checkpoint = _again  # type: ignore[attr-defined]  # what submitit asks for before it requeues
