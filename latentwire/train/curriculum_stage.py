"""CurriculumStage: decides before every step what each objective weighs and which groups move."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from callbacks.step.context import StepContext
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage
from latentwire.train.curriculum import Curriculum, Period, Schedule

OBSERVE = "observe/"
LOSS = "loss/"
TERM = "term/"


class CurriculumStage(Stage):
    """Sets `weights` and `period` before each step's forward pass; groups that the period does not train are held.

    What the step brought to the host (`loss/<objective>`, `term/<objective>` = weight * loss, `observe/<metric>`) is
    logged after the commit as `train/loss`, `train/loss/<objective>`, `train/<metric>`, and as
    `share/<objective>` = |term| / sum of |terms|: a weight says little, the share says who drives the step. Observed
    metrics are smoothed for the gates of the curriculum (a single batch is noise): bias-corrected EMA of `smoothing`.

    Args:
        curriculum: periods over steps.
        schedules: weights over steps, by objective.
        smoothing: weight of the past in an observed metric; 0: the last batch.
    """

    name = "curriculum"
    phase = Phase.DECIDE

    def __init__(self, curriculum: Curriculum, schedules: Mapping[str, Schedule], smoothing: float = 0.9):
        self.curriculum, self.schedules, self.smoothing = curriculum, dict(schedules), smoothing
        self.observed: dict[str, float] = {}
        self.by_period: dict[str, dict[str, float]] = {}  # last observed metrics of each period, for its acceptance
        self.weights: dict[str, float] = {}
        self.period: Period = curriculum.periods[0]
        self._sums: dict[str, tuple[float, float]] = {}

    def before_forward(self, ctx: StepContext) -> None:
        period = self.curriculum.at(ctx.t)
        if period is not self.period or not self.weights:
            said = f"{period.name}: ratio {period.ratio or 'as evaluated'}, trains {period.trains}"
            ctx.events.append(("stage", said))
        self.period = period
        self.weights = {name: s.weight(ctx.t, self.observed) for name, s in self.schedules.items()}
        for group in ctx.groups:
            kind, _, objective = group.partition(":")
            if not period.moves(group):
                ctx.plan.hold(group, f"not trained in {period.name}")
            elif kind == "head" and self.weights.get(objective, 0.0) == 0.0:
                ctx.plan[group].graph, ctx.plan[group].reason = False, f"objective {objective} weighs 0"

    def on_commit(self, ctx: StepContext) -> None:
        terms = {k.removeprefix(TERM): v for k, v in ctx.host.items() if k.startswith(TERM)}
        total = sum(abs(v) for v in terms.values())
        ctx.metrics["train/loss"] = sum(terms.values())
        for name, value in terms.items():
            ctx.metrics[f"share/{name}"] = abs(value) / total if total > 0 else 0.0
        for name, weight in self.weights.items():
            ctx.metrics[f"weight/{name}"] = weight
        losses = {k: v for k, v in ctx.host.items() if k.startswith(LOSS)}
        seen = {k.removeprefix(OBSERVE): v for k, v in ctx.host.items() if k.startswith(OBSERVE)}
        ctx.metrics.update({f"train/{key}": value for key, value in (losses | seen).items()})
        norm = math.sqrt(sum(v * v for k, v in ctx.host.items() if k.startswith("fresh/")))
        for key, value in {**seen, **losses, "grad_norm": norm}.items():
            self.observe(key, value)

    def observe(self, name: str, value: float) -> None:
        """Take one value of a metric into its smoothed one."""
        total, count = self._sums.get(name, (0.0, 0.0))
        total, count = self.smoothing * total + value, self.smoothing * count + 1.0
        self._sums[name] = (total, count)
        self.observed[name] = total / count
        self.by_period.setdefault(self.period.name, {})[name] = self.observed[name]

    def record(self, name: str, value: float) -> None:
        """Take a value as it is (validation: it is an average already)."""
        self.observed[name] = value
        self.by_period.setdefault(self.period.name, {})[name] = value

    def state(self) -> dict[str, Any]:
        return {
            "observed": dict(self.observed),
            "sums": {k: list(v) for k, v in self._sums.items()},
            "by_period": {k: dict(v) for k, v in self.by_period.items()},
            "period": self.period.name,
            "schedules": {name: s.state() for name, s in self.schedules.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.observed = dict(state["observed"])
        self._sums = {k: (v[0], v[1]) for k, v in state["sums"].items()}
        self.by_period = {k: dict(v) for k, v in state["by_period"].items()}
        self.period = next((p for p in self.curriculum.periods if p.name == state["period"]), self.period)
        for name, saved in state["schedules"].items():
            self.schedules[name].load_state(saved)
        self.weights = {"": 0.0}  # the period under way was announced before the restart

    def counters(self) -> dict[str, Any]:
        return {"stages": {k: dict(v) for k, v in self.by_period.items()}}
