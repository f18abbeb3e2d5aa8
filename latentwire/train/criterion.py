"""Criterion: what a stage of the training asks of a metric, to end early or to go on at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from callbacks.errors import RunEnded, UserError
from callbacks.ranges import Count, Finite


def inside(value: float, above: float | None, below: float | None) -> bool:
    """Tell whether a value exceeds `above` and stays under `below`; None is no bound, NaN is inside nothing."""
    return not math.isnan(value) and (above is None or value > above) and (below is None or value < below)


def bounds(above: float | None, below: float | None) -> str:
    """Return the bounds in words: `above 0.7 and below 2`."""
    named = [f"{word} {bound:g}" for word, bound in (("above", above), ("below", below)) if bound is not None]
    return " and ".join(named)


def refuse_bounds(key: str, metric: str, above: float | None, below: float | None) -> None:
    """Refuse no bound at all, and bounds with nothing between them; `key` is the node that holds them."""
    if above is None and below is None:
        raise UserError(f"{key} on {metric}", "neither above nor below", "a bound", f"set +{key}.above=0.5 (or below)")
    if above is not None and below is not None and above >= below:
        found = f"above {above:g} and below {below:g}"
        raise UserError(f"{key} on {metric}", found, "above < below", f"set {key}.below=null")


class StageFailed(RunEnded):
    """Reports that a stage did not reach what it requires, by stage, metric, value found and bound asked."""


@dataclass(frozen=True)
class Criterion:
    """Asks a metric, as observed within a stage, to exceed or to stay under a bound.

    Metrics of training are averages over steps (`observe_smoothing`), those of validation are as measured; one that was
    not observed in the stage so far fulfils nothing.

    Args:
        metric: name of an observed metric: `cosine`, `loss/answer_ce`, `grad_norm`, `val/f1`.
        above: bound that it must exceed; None: none. At least one bound is needed.
        below: bound that it must stay under; None: none.
        after: number of committed steps of the stage after which it is asked, then before every further one.
    """

    metric: str
    above: Finite | None = None
    below: Finite | None = None
    after: Count = 1

    def __post_init__(self) -> None:
        refuse_bounds("stages.<n>.require", self.metric, self.above, self.below)

    @property
    def asked(self) -> str:
        """The bounds in words."""
        return bounds(self.above, self.below)

    def holds(self, observed: Mapping[str, float]) -> bool:
        """Tell whether the metric was observed and lies within the bounds."""
        return inside(observed.get(self.metric, math.nan), self.above, self.below)
