"""What a rung says: numbers, their bounds, and what to do about the first that is out of bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from callbacks.errors import UserError

Status = Literal["pass", "fail", "not run"]
NAMES = ("parity", "replay", "channel", "overfit", "condition", "budget", "squeeze")


@dataclass(frozen=True)
class Check:
    """Judges one measured number.

    Args:
        name: what was measured.
        value: the number; one that is not finite does not pass.
        low: smallest value that passes; None: no such bound. Without any bound the number only informs.
        high: largest value that passes; None: no such bound.
        remedy: what to do where it does not pass, with the key of the configuration.
        found: what was seen, in words.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    remedy: str = ""
    found: str = ""

    @property
    def passed(self) -> bool:
        """Whether the number lies within its bounds."""
        if self.low is None and self.high is None:
            return True
        inside = (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)
        return inside and math.isfinite(self.value)

    @property
    def bounds(self) -> str:
        """The threshold as shown in tables; empty where there is none."""
        ends = ((">=", self.low), ("<=", self.high))
        return " and ".join(f"{sign} {end:.4g}" for sign, end in ends if end is not None)


@dataclass(frozen=True)
class Verdict:
    """Holds what one rung says; `seconds` is what it took.

    A `fail` without a failing check is an error that the rung ran into; `found` and `remedy` are then the error's.
    """

    rung: int
    status: Status
    checks: list[Check] = field(default_factory=list)
    found: str = ""
    remedy: str = ""
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the rung."""
        return NAMES[self.rung]

    def plain(self) -> dict[str, Any]:
        """Return what `ladder.json` takes; a number that is not finite becomes its name."""
        checks = [
            {**asdict(c), "value": c.value if math.isfinite(c.value) else str(c.value), "passed": c.passed}
            for c in self.checks
        ]
        return {**asdict(self), "name": self.name, "checks": checks}


def judged(rung: int, checks: Sequence[Check], found: str = "", curve: Sequence[dict[str, Any]] = ()) -> Verdict:
    """Return the verdict on checks: the first that fails gives the remedy."""
    bad = next((c for c in checks if not c.passed), None)
    if bad is None:
        return Verdict(rung, "pass", list(checks), found, curve=list(curve))
    said = bad.found or f"{bad.name} is {bad.value:.4g}, wanted {bad.bounds}"
    return Verdict(rung, "fail", list(checks), said, bad.remedy, curve=list(curve))


def refused(rung: int, error: UserError) -> Verdict:
    """Return the verdict on a rung that ran into an error of the suite, which names what is wrong and what to do."""
    return Verdict(rung, "fail", [], f"{error.where}: {error.found}; expected {error.expected}", error.remedy)
