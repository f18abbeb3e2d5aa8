"""The jobs of a command line before they run, and which of them are the same run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError
from suite.runs.display import varying
from suite.runs.identity import config_hash, evaluation_hash, run_dir
from suite.runs.inputs import inert


@dataclass
class Job:
    """One job of a command line.

    Attributes:
        overrides: the overrides that the user typed for it.
        cfg: its tree.
        hash: its identity.
        dir: its run directory.
        evaluation: the hash of what its finished weights are asked.
        typed: the hash of its tree with the values of keys that act on nothing, as they were typed.
        same_as: the earlier job that is the same run, from 0; None where it is the first.
        idle: what to say of keys that act on nothing: for a job of its own, where the user typed them; for one that is
            the same as another, where the two differ.
    """

    overrides: list[str]
    cfg: DictConfig
    hash: str
    dir: Path
    evaluation: str
    typed: str
    same_as: int | None = None
    idle: str = ""


@dataclass
class PlannedJobs:
    """All jobs of a command line, composed and checked.

    Attributes:
        jobs: the jobs in the order in which they run.
        multirun: whether the command line is a sweep.
        local: whether the jobs run in this process, one after the other.
    """

    jobs: list[Job]
    multirun: bool
    local: bool


def job_of(cfg: DictConfig, overrides: list[str]) -> Job:
    """Return the job of a checked tree and what the user typed for it."""
    typed = (o.partition("=")[0].lstrip("+") for o in overrides)
    folder = run_dir(cfg)
    idle = _idle(cfg, typed)
    # without keys that act on nothing there is nothing to tell apart, and hashing takes longer than checking
    as_typed = config_hash(cfg, idle=True) if inert(cfg) else folder.name
    return Job(overrides, cfg, folder.name, folder, evaluation_hash(cfg), as_typed, idle=idle)


def join_twins(jobs: Sequence[Job]) -> None:
    """Mark jobs that are the same run because they differ in keys that act on nothing.

    Jobs of one run that ask its finished weights something else are not the same: the run is trained once.

    Raises:
        UserError: two jobs that differ in nothing that counts.
    """
    first: dict[tuple[str, str], int] = {}
    by_typed: dict[tuple[str, str], int] = {}
    for number, job in enumerate(jobs):
        earlier = first.setdefault((job.hash, job.evaluation), number)
        twin = by_typed.setdefault((job.typed, job.evaluation), number)
        if twin != number:
            raise _twins(jobs, twin, number)
        if earlier != number:
            one = jobs[earlier].cfg
            keys = [k for k in inert(job.cfg) if OmegaConf.select(one, k) != OmegaConf.select(job.cfg, k)]
            job.same_as, job.idle = earlier, _idle(job.cfg, keys)


def _idle(cfg: DictConfig, keys: Iterable[str]) -> str:
    """Say which of these keys, or of the keys below them, act on nothing."""
    reasons: Mapping[str, str] = inert(cfg)
    asked = list(keys)
    found = [key for key in reasons if any(key == k or key.startswith(f"{k}.") for k in asked)]
    return "; ".join(f"{key} acts on nothing at {reasons[key]}" for key in found)


def _twins(jobs: Sequence[Job], earlier: int, number: int) -> UserError:
    one, other = (" ".join(o) for o in varying([jobs[earlier].overrides, jobs[number].overrides]))
    remedy = "list every value once"
    if other:
        remedy = f"take {other} out of the sweep, or run it on its own afterwards with resume=never"
    return UserError(
        f"{one} | {other}" if one or other else " ".join(jobs[number].overrides),
        f"jobs {earlier + 1} and {number + 1} of the sweep are the same run ({jobs[number].hash})",
        "jobs that differ in more than device, speed, display, paths, resume and acceptance",
        remedy,
    )
