"""What a sweep and its workers leave each other: a job as it was planned, its output, and how it ended.

A job is `<folder>/<number>.job.json`, written by the sweep; beside it lie `<number>.log`, what the job prints, and
`<number>.ended.json`. All are plain JSON with their SHA-256. The job holds the composed tree itself: what has been
checked is what runs, whatever happens to YAML files while it waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError, quoted
from callbacks.files.sealed import read_json
from suite.runs.identity import run_dir
from suite.runs.ledger import write_json
from suite.runs.outcome import Outcome
from suite.runs.planned import Job

AGAIN = "give the command of the sweep again, which writes it anew"


@dataclass(frozen=True)
class Work:
    """One job in the hands of a worker.

    Attributes:
        path: its file.
        cfg: its tree.
        told: what distinguishes it from the other jobs of the sweep, as typed.
    """

    path: Path
    cfg: DictConfig
    told: Sequence[str]

    @property
    def log(self) -> Path:
        """The file of what it prints."""
        return log_of(self.path)


def write_work(folder: Path, number: int, job: Job, told: Sequence[str]) -> Path:
    """Write the job with this number, from 0, for a worker to find; return its file."""
    path = folder / f"{number + 1:04d}.job.json"
    ended_of(path).unlink(missing_ok=True)
    write_json(path, {"dir": job.dir, "told": list(told), "tree": OmegaConf.to_yaml(job.cfg)})
    return path


def read_work(path: Path) -> Work:
    """Read a job.

    Raises:
        UserError: a damaged file, or one whose run lies elsewhere as seen from here.
    """
    found = read_json(path, "a job of a sweep as it was written", AGAIN)
    cfg = OmegaConf.create(found["tree"])
    assert isinstance(cfg, DictConfig)
    OmegaConf.set_struct(cfg, True)
    if str(run_dir(cfg)) != found["dir"]:
        raise UserError(
            str(path),
            f"the run {run_dir(cfg)}",
            f"{found['dir']}, as it was planned: the same files, and the same folder to start from",
            AGAIN,
        )
    return Work(path, cfg, found["told"])


def log_of(path: Path) -> Path:
    """Return the file of what a job prints."""
    return path.with_name(path.name.replace(".job.json", ".log"))


def ended_of(path: Path) -> Path:
    """Return the file that says how a job ended."""
    return path.with_name(path.name.replace(".job.json", ".ended.json"))


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write how the job in the file `path` ended."""
    write_json(ended_of(path), asdict(outcome))


def read_outcome(path: Path) -> Outcome | None:
    """Return how the job in the file `path` ended, None as long as it does not say so."""
    if not ended_of(path).is_file():
        return None
    place = ended_of(path)
    found: dict[str, Any] = read_json(place, "how a job ended, as it was written", f"rm {quoted(place)}")
    return Outcome(**{**found, "dir": Path(found["dir"])})
