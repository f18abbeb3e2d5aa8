"""The choice among trials: validation at the best epoch, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asgml.tune.space import Point
from callbacks.errors import UserError

CHOSEN_BY = "validation accuracy at the best epoch, mean over the tuning seeds; ties by validation loss, then by order"
SPLIT = "val_best"  # the only entry of a result that is read here


@dataclass(frozen=True)
class Validated:
    """What validation says of one trial, means over the tuning seeds.

    Attributes:
        score: the accuracy at the best validation epoch, or minus the error of a regression; None where a run diverged.
        loss: the validation loss there.
    """

    score: float | None
    loss: float | None = None


@dataclass(frozen=True)
class Trial:
    """One trial of a row.

    Attributes:
        point: what it sets; {} for the row's default.
        values: the values of the learning rate and the knobs, set or default.
        runs: the hash of its run, by tuning seed.
        validated: what validation says of it.
    """

    point: Point
    values: Point
    runs: Mapping[int, str]
    validated: Validated


def validated(results: Sequence[Mapping[str, Any] | None], where: str) -> Validated:
    """Read validation at the best epoch from the results of a trial, one per seed; None stands for a diverged run.

    Raises:
        UserError: a result without validation at the best epoch.
    """
    pairs: list[tuple[float, float]] = []
    for result in results:
        if result is None:
            return Validated(None)
        best = result.get(SPLIT) or {}
        score = -best["mae"] if "mae" in best else best.get("accuracy")
        if score is None:
            remedy = "leave callbacks.checkpoint and debug as the experiment has them"
            raise UserError(where, f"no {SPLIT} in result.json", "validation at the best epoch, to choose by", remedy)
        pairs.append((_number(score, -math.inf), _number(best.get("loss"), math.inf)))
    return Validated(*(sum(column) / len(pairs) for column in zip(*pairs)))


def choose(trials: Sequence[Trial]) -> int | None:
    """Return the number of the best trial, the earliest of equals; None where all diverged."""
    ranked = [
        (-t.validated.score, math.inf if t.validated.loss is None else t.validated.loss, number)
        for number, t in enumerate(trials)
        if t.validated.score is not None
    ]
    return min(ranked)[2] if ranked else None


def _number(value: Any, otherwise: float) -> float:
    """Return a finite number, and `otherwise` in place of anything else (a result.json has null and "Infinity")."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else otherwise
