"""Thresholds that a run was meant to reach, judged at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from callbacks.errors import UserError


@dataclass(frozen=True)
class Rule:
    """Demands that value(metric), over value(over) or minus value(minus), lies between `min` and `max`.

    Args:
        metric: dotted path in what is judged: `methods.wire.f1`, or in a period of the curriculum the name of an
            observed metric (`val/f1`, `first_token_top1`, `grad_norm`).
        min: smallest value that passes; None: no such bound. At least one bound is needed.
        max: largest value that passes; None: no such bound.
        over: another metric to divide by.
        minus: another metric to subtract.
    """

    metric: str
    min: float | None = None
    max: float | None = None
    over: str | None = None
    minus: str | None = None

    def __post_init__(self) -> None:
        if (self.min is None and self.max is None) or (self.over is not None and self.minus is not None):
            raise UserError(
                f"acceptance.<stage>.<rule> of {self.metric}",
                f"min {self.min}, max {self.max}, over {self.over}, minus {self.minus}",
                "min or max, and at most one of over and minus",
                "set acceptance.<stage>.<rule>.min=0.0, or acceptance.<stage>.<rule>.minus=null",
            )

    def judge(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return `{what, value, min, max, passed}`; a metric that is missing or not finite does not pass."""
        value = lookup(values, self.metric)
        if self.over is not None:
            other = lookup(values, self.over)
            value = value / other if other else math.nan
        if self.minus is not None:
            value -= lookup(values, self.minus)
        passed = math.isfinite(value)
        passed = passed and (self.min is None or value >= self.min) and (self.max is None or value <= self.max)
        said = self.metric + (f" / {self.over}" if self.over else "") + (f" - {self.minus}" if self.minus else "")
        return {"what": said, "value": value, "min": self.min, "max": self.max, "passed": passed}


def lookup(values: Mapping[str, Any], path: str) -> float:
    """Return the number at a dotted path, NaN where there is none. A whole name wins over a path."""
    if path in values and isinstance(values[path], int | float):
        return float(values[path])
    head, _, rest = path.partition(".")
    inner = values.get(head)
    return lookup(inner, rest) if rest and isinstance(inner, Mapping) else math.nan


def judge(
    rules: Mapping[str, Mapping[str, Rule]], stages: Mapping[str, Mapping[str, float]], result: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return verdicts `{stage, rule, what, value, min, max, passed}`.

    Args:
        rules: rules by stage and by a name of their own; the stage `evaluation` is judged on the result.
        stages: last observed metrics by period of the curriculum.
        result: the run's result.
    """
    return [
        {"stage": stage, "rule": name, **rule.judge(result if stage == "evaluation" else stages.get(stage, {}))}
        for stage, named in rules.items()
        for name, rule in named.items()
    ]
