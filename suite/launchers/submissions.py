"""Runs that are on their way on a cluster: what was submitted, where it stands, and how it ended."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from callbacks.errors import UserError, quoted
from callbacks.files.sealed import read_json
from suite.launchers.work import read_outcome
from suite.runs.identity import runs_root
from suite.runs.ledger import write_json
from suite.runs.lock import holder
from suite.runs.outcome import Outcome
from suite.runs.planned import Job

FOLDER = ".sweeps/submitted"  # below paths.runs
LAG = 600  # seconds after which a job that the accounting does not know is over, unless its run is held
WAITS = {"PENDING", "REQUEUED", "READY", "CONFIGURING", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
RUNS = {"RUNNING", "COMPLETING", "SUSPENDED", "PREEMPTED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}

State = Literal["queued", "running", ""]


@dataclass(frozen=True)
class Submission:
    """One run that was given to a cluster.

    Attributes:
        cluster: `slurm`, or `local` for submitit's own stand-in.
        id: the cluster's number of the job, `123_4` in an array; the stand-in's process.
        host: the machine that it was submitted from.
        folder: the folder of submitit's files.
        begun: when it was submitted, seconds since 1970.
        work: the files of its jobs, in the order in which they are done.
    """

    cluster: Literal["slurm", "local"]
    id: str
    host: str
    folder: str
    begun: float
    work: list[str]

    def state(self, run: Path) -> State:
        """Return where the run in `run` stands; "" when the cluster is done with it.

        A run that was stopped and requeued is on its way again, whatever it has written.
        """
        if self.cluster == "local":
            return "running" if self.host == socket.gethostname() and _alive(int(self.id)) else ""
        told = self.told()
        if told in WAITS:
            return "queued"
        if told in RUNS or holder(run):
            return "running"
        return "queued" if told == "UNKNOWN" and time.time() - self.begun < LAG else ""

    def told(self) -> str:
        """Return SLURM's word for the state of the job, such as RUNNING or TIMEOUT; UNKNOWN where it has none."""
        if self.cluster == "local":
            return "GONE"
        from submitit.slurm.slurm import SlurmJob

        words: list[str] = SlurmJob(self.folder, self.id).state.split()  # "CANCELLED by 1000"
        return words[0].rstrip("+") if words else "UNKNOWN"

    @property
    def name(self) -> str:
        """The words for it in tables."""
        return f"SLURM job {self.id}" if self.cluster == "slurm" else f"process {self.id} on {self.host}"

    @property
    def log(self) -> Path:
        """The file of what went wrong outside of the jobs."""
        return Path(self.folder) / f"{self.id}_0_log.err"

    def outcomes(self) -> list[Outcome | None]:
        """Return how its jobs have ended, None for those that have not said so."""
        return [read_outcome(Path(path)) for path in self.work]


def remember(job: Job, submission: Submission) -> None:
    """Note that the run of a job was submitted."""
    write_json(_place(job), vars(submission))


def submitted(job: Job) -> Submission | None:
    """Return the newest submission of a job's run, None where there is none that can be read."""
    place = _place(job)
    if not place.is_file():
        return None
    try:
        found: dict[str, Any] = read_json(place, "what was submitted, as it was written", f"rm {quoted(place)}")
        return Submission(**found)
    except (UserError, TypeError):  # damaged, or of another release: the lock of the run still stands
        return None


def on_its_way(job: Job) -> tuple[State, str]:
    """Return where the run of a job stands on a cluster, and the words for what it is there; "" twice if it is not."""
    found = submitted(job)
    state: State = "" if found is None else found.state(job.dir)
    return (state, found.name) if found is not None and state else ("", "")


def _place(job: Job) -> Path:
    return runs_root(job.cfg) / FOLDER / str(job.cfg.name) / f"{job.hash}.json"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")  # a child that has ended and was not asked for stays as a zombie
    return not (status.is_file() and status.read_text().rpartition(")")[2].split()[0] == "Z")
