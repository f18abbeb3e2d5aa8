"""How a job ended, and how that is told by what ended it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from callbacks.errors import UserError
from suite.runs.exhausted import exhausted, unusable
from suite.runs.stopping import stop_code

Status = Literal[
    "finished", "skipped", "evaluated", "same", "failed", "stopped", "not started", "held", "queued", "running"
]


@dataclass
class Outcome:
    """Says how one job ended.

    Attributes:
        hash: the run's identity.
        dir: the run directory.
        status: how it ended; `skipped` reuses an earlier result, `evaluated` has asked the finished run something
            else, `same` is that of another job of the sweep, `held` belongs to another process, `queued` and `running`
            are on their way on a cluster.
        result: the content of `result.json`.
        error: what went wrong, empty if nothing did.
        user_error: whether that was the user's input.
        exit_code: the exit code of a stopped job, 0 for any other.
        remarks: what to know about a reused result, as short phrases.
    """

    hash: str
    dir: Path
    status: Status
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    user_error: bool = False
    exit_code: int = 0
    remarks: list[str] = field(default_factory=list)

    def ended_by(self, error: BaseException) -> None:
        """Note what ended the job before its end: an error, a limit of the machine, or somebody who stopped it."""
        error = exhausted(error) or unusable(error, self.dir) or error
        self.exit_code = stop_code(error)
        self.status = "stopped" if self.exit_code else "failed"
        self.error = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self.error = "; ".join([self.error, *getattr(error, "__notes__", ())])
        self.user_error = isinstance(error, UserError)

    @property
    def accepted(self) -> bool:
        """Whether it has reached what it was to reach, as far as its result says."""
        return self.result.get("accepted") is not False
