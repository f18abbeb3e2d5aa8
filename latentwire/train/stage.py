"""Rhythm: the deciding stage of the step. Which stage of the run this is, what each objective weighs, who moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from callbacks.step.stage import Stage, StepContext
from latentwire.train.curriculum import Plan, Schedule
from latentwire.train.curriculum import Stage as Part

OBSERVE = "observe/"
LOSS = "loss/"
TERM = "term/"


class Rhythm(Stage):
    """Before the forward pass it sets `weights` and `part` for this step; groups that the part does not train are held.

    What the step brought to the host (`loss/<objective>`, `term/<objective>` = weight * loss, `observe/<metric>`) is
    logged after the commit as `train/loss`, `train/loss/<objective>`, `train/<metric>`, and as
    `share/<objective>` = |term| / sum of |terms|: a weight says little, the share says who drives the step. Observed
    metrics are smoothed for the gates of the curriculum (a single batch is noise): bias-corrected EMA of `smoothing`.

    Args:
        plan: stages over steps.
        schedules: weight of each objective.
        smoothing: weight of the past in an observed metric; 0: the last batch.
    """

    name = "rhythm"

    def __init__(self, plan: Plan, schedules: Mapping[str, Schedule], smoothing: float = 0.9):
        self.plan, self.schedules, self.smoothing = plan, dict(schedules), smoothing
        self.observed: dict[str, float] = {}
        self.by_part: dict[str, dict[str, float]] = {}  # last observed metrics of each part, for its acceptance
        self.weights: dict[str, float] = {}
        self.part: Part = plan.stages[0]
        self._sums: dict[str, tuple[float, float]] = {}

    def before_forward(self, ctx: StepContext) -> None:
        part = self.plan.stages[self.plan.at(ctx.t)]
        if part is not self.part or not self.weights:
            ctx.events.append(("stage", f"{part.name}: ratio {part.ratio or 'as evaluated'}, trains {part.trains}"))
        self.part = part
        self.weights = {name: s.weight(ctx.t, self.observed) for name, s in self.schedules.items()}

    def on_gradients(self, ctx: StepContext) -> None:
        for group in ctx.groups:
            if not self.part.moves(group):
                ctx.hold(group)

    def on_commit(self, ctx: StepContext) -> None:
        terms = {k.removeprefix(TERM): v for k, v in ctx.host.items() if k.startswith(TERM)}
        total = sum(abs(v) for v in terms.values())
        ctx.metrics["train/loss"] = sum(terms.values())
        for name, value in terms.items():
            ctx.metrics[f"share/{name}"] = abs(value) / total if total > 0 else 0.0
        for name, weight in self.weights.items():
            ctx.metrics[f"weight/{name}"] = weight
        seen = {k.removeprefix(OBSERVE): v for k, v in ctx.host.items() if k.startswith(OBSERVE)}
        for key, value in ctx.host.items():
            if key.startswith(LOSS):
                ctx.metrics[f"train/{key}"] = value
                seen[key] = value
        for key, value in seen.items():
            if not key.startswith(LOSS):
                ctx.metrics[f"train/{key}"] = value
        norms = [v for k, v in ctx.host.items() if k.startswith("fresh/")]
        seen["grad_norm"] = math.sqrt(sum(v * v for v in norms))
        for key, value in seen.items():
            self.observe(key, value)

    def observe(self, name: str, value: float) -> None:
        """Takes one value of a metric into its smoothed one."""
        total, count = self._sums.get(name, (0.0, 0.0))
        total, count = self.smoothing * total + value, self.smoothing * count + 1.0
        self._sums[name] = (total, count)
        self.observed[name] = total / count
        self.by_part.setdefault(self.part.name, {})[name] = self.observed[name]

    def record(self, name: str, value: float) -> None:
        """Takes a value as it is (validation: it is an average already)."""
        self.observed[name] = value
        self.by_part.setdefault(self.part.name, {})[name] = value

    def idle(self, group: str) -> bool:
        """Whether this group may be without gradient in this step: it is held, or the head of an objective that
        weighs 0. (The first matrix of a LoRA has no gradient before the second one has moved.)
        """
        kind, _, objective = group.partition(":")
        return not self.part.moves(group) or (kind == "head" and self.weights.get(objective, 0.0) == 0.0)

    def state(self) -> dict[str, Any]:
        return {
            "observed": dict(self.observed),
            "sums": {k: list(v) for k, v in self._sums.items()},
            "by_part": {k: dict(v) for k, v in self.by_part.items()},
            "part": self.part.name,
            "schedules": {name: s.state() for name, s in self.schedules.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.observed = dict(state["observed"])
        self._sums = {k: (v[0], v[1]) for k, v in state["sums"].items()}
        self.by_part = {k: dict(v) for k, v in state["by_part"].items()}
        self.part = next((s for s in self.plan.stages if s.name == state["part"]), self.part)
        for name, saved in state["schedules"].items():
            self.schedules[name].load_state(saved)
        self.weights = {"": 0.0}  # the stage under way was announced before the restart

    def counters(self) -> dict[str, Any]:
        return {"stages": {k: dict(v) for k, v in self.by_part.items()}}
