"""CurriculumStage: decides before every step what each objective weighs, which groups move, and how fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from callbacks.run.history_logger import find_history
from callbacks.step.context import StepContext
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage
from latentwire.objectives.base import READING
from latentwire.train.criterion import StageFailed
from latentwire.train.curriculum import Curriculum, Period, Schedule

OBSERVE = "observe/"
LOSS = "loss/"
TERM = "term/"


class CurriculumStage(Stage):
    """Sets `weights`, `period` and learning rates before each step's forward pass, and plans which groups move.

    Groups that the period does not train are held. Those that no objective of the step reaches are planned without a
    gradient: the audit does not miss one there, and misses it everywhere else.

    A period ends at its planned step, or before, once `Period.advance` holds; a period that does not fulfil
    `Period.require` ends the run. Both are asked before a step, about what was observed in that period so far.

    What the step brought to the host (`loss/<objective>`, `term/<objective>` = weight * loss, `observe/<metric>`) is
    logged after the commit as `train/loss`, `train/loss/<objective>`, `train/<metric>`, and as
    `share/<objective>` = |term| / sum of |terms|: a weight says little, the share says who drives the step. Observed
    metrics are smoothed for the gates of the curriculum (a single batch is noise): bias-corrected EMA of `smoothing`.

    Args:
        curriculum: periods over steps.
        schedules: weights over steps, by objective.
        smoothing: weight of the past in an observed metric; 0: the last batch.
        reaches: kinds of groups that an objective's gradient reaches (`Objective.reaches`), by objective; those of a
            forward pass through the models where one is not named.
    """

    name = "curriculum"
    phase = Phase.DECIDE

    def __init__(
        self,
        curriculum: Curriculum,
        schedules: Mapping[str, Schedule],
        smoothing: float = 0.9,
        reaches: Mapping[str, Collection[str]] | None = None,
    ):
        self.curriculum, self.schedules, self.smoothing = curriculum, dict(schedules), smoothing
        self.reaches = {name: frozenset((reaches or {}).get(name, READING)) for name in schedules}
        self.entered: Callable[[Period], None] | None = None  # told when a period begins
        self.factors = {p.name: p.factors() for p in curriculum.periods}
        self.observed: dict[str, float] = {}
        self.by_period: dict[str, dict[str, float]] = {}  # last observed metrics of each period, for its acceptance
        self.weights: dict[str, float] = {}
        self.number, self.start, self.ends = -1, 0, list(curriculum.ends)  # -1: training has not begun
        self._sums: dict[str, tuple[float, float]] = {}
        self._own_rates = any(p.group_lr is not None or p.lr_schedule is not None for p in curriculum.periods)

    @property
    def period(self) -> Period:
        """The period under way, before training the first one."""
        return self.curriculum.periods[max(0, self.number)]

    def before_forward(self, ctx: StepContext) -> None:
        if self.number < 0:
            self._enter(ctx, 0)
        self._require(ctx)
        while self.number + 1 < len(self.ends) and (ctx.t >= self.ends[self.number] or self._advances(ctx)):
            self._enter(ctx, self.number + 1)
        self.weights = {name: self._weight(name, ctx.t) for name in self.schedules}
        self._plan(ctx)
        self._set_rates(ctx)

    # -- periods
    def _enter(self, ctx: StepContext, number: int) -> None:
        self.number, self.start, self.ends = number, ctx.t, self.curriculum.plan(number, ctx.t)
        p = self.period
        said = f"{p.name}: ratio {p.ratio or 'as evaluated'}, trains {p.trains}"
        if p.weights is not None:
            said += f", objectives {', '.join(p.weights)}"
        ctx.events.append(("stage", said))
        if self.entered is not None:
            self.entered(p)

    def _advances(self, ctx: StepContext) -> bool:
        asked = self.period.advance
        return asked is not None and ctx.t - self.start >= asked.after and asked.holds(self._here())

    def _require(self, ctx: StepContext) -> None:
        asked, here = self.period.require, self._here()
        if asked is None or ctx.t - self.start < asked.after or asked.holds(here):
            return
        ends = ctx.t >= self.ends[self.number]
        if asked.metric not in here and not ends:
            return  # a metric of a validation that is still to come
        found = f"{asked.metric} = {here[asked.metric]:.4g}" if asked.metric in here else f"{asked.metric} not observed"
        steps = ctx.t - self.start
        error = StageFailed(
            f"stages.{self.number}.require ({self.period.name})",
            f"{found} after {steps} steps of the stage",
            f"{asked.metric} {asked.asked} from step {asked.after} of the stage on",
            f"set stages.{self.number}.require=null to go on all the same; otherwise give the stage more steps "
            f"(stages.{self.number}.share) or another rate (group_lr)",
            {
                "stage_failed": {
                    "stage": self.period.name,
                    "metric": asked.metric,
                    "found": here.get(asked.metric),
                    "above": asked.above,
                    "below": asked.below,
                    "steps": steps,
                    "step": ctx.t,
                },
                "counters": self.counters(),
            },
        )
        history = find_history(ctx.trainer)
        if history is not None:  # the step, whose events would be recorded at its end, is not taken
            history.event(ctx.t, ctx.trainer.current_epoch, "stage failed", f"{self.period.name}: {error.found}")
        raise error

    def _here(self) -> Mapping[str, float]:
        return self.by_period.get(self.period.name, {})

    # -- what a step does
    def _weight(self, objective: str, t: int) -> float:
        own = self.schedules[objective].weight(t, self.observed)
        factors = self.factors[self.period.name]
        if factors is None:
            return own
        return own * factors[objective].weight(t - self.start, self.observed) if objective in factors else 0.0

    def _plan(self, ctx: StepContext) -> None:
        active = [name for name, weight in self.weights.items() if weight > 0]
        ctx.plan.part = ", ".join(active)
        reached = frozenset().union(*(self.reaches[name] for name in active))
        for group in ctx.groups:
            kind, _, objective = group.partition(":")
            if not self.period.moves(group):
                ctx.plan.hold(group, f"not trained in {self.period.name}")
            elif kind == "head" and objective not in active:
                ctx.plan[group].graph, ctx.plan[group].reason = False, f"objective {objective} weighs 0"
            elif kind != "head" and kind not in reached:
                ctx.plan[group].graph = False
                ctx.plan[group].reason = f"out of reach of {', '.join(active)}"

    def _set_rates(self, ctx: StepContext) -> None:
        """Set the learning rates of step `ctx.t`, where any period has rates or a schedule of its own."""
        if not self._own_rates:
            return
        period = self.period
        if period.lr_schedule is None:
            factor = self._run_factor(ctx)(ctx.t)
        else:
            steps = max(1, self.ends[self.number] - self.start)
            factor = period.lr_schedule.factor(steps, 1)(ctx.t - self.start)
        for name, group in ctx.groups.items():
            rate = period.rate(name)
            group.options["lr"] = (group.options["initial_lr"] if rate is None else rate) * factor

    @staticmethod
    def _run_factor(ctx: StepContext) -> Callable[[int], float]:
        scheduler: Any = ctx.trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        found: Callable[[int], float] = scheduler.lr_lambdas[0]
        return found

    # -- what a step brought
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

    def after_commit(self, ctx: StepContext) -> None:
        self._set_rates(ctx)  # in place of those that the run's scheduler has just set

    def observe(self, name: str, value: float) -> None:
        """Take one value of a metric into its smoothed one."""
        total, count = self._sums.get(name, (0.0, 0.0))
        total, count = self.smoothing * total + value, self.smoothing * count + 1.0
        self._sums[name] = (total, count)
        self.record(name, total / count)

    def record(self, name: str, value: float) -> None:
        """Take a value as it is (validation: it is an average already)."""
        self.observed[name] = value
        self.by_period.setdefault(self.period.name, {})[name] = value

    # -- state
    def state(self) -> dict[str, Any]:
        return {
            "observed": dict(self.observed),
            "sums": {k: list(v) for k, v in self._sums.items()},
            "by_period": {k: dict(v) for k, v in self.by_period.items()},
            "number": self.number,
            "start": self.start,
            "ends": list(self.ends),
            "schedules": {name: s.state() for name, s in self.schedules.items()},
            "factors": {p: {n: s.state() for n, s in (named or {}).items()} for p, named in self.factors.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.observed = dict(state["observed"])
        self._sums = {k: (v[0], v[1]) for k, v in state["sums"].items()}
        self.by_period = {k: dict(v) for k, v in state["by_period"].items()}
        self.number, self.start, self.ends = state["number"], state["start"], list(state["ends"])
        for name, saved in state["schedules"].items():
            self.schedules[name].load_state(saved)
        for period, named in state["factors"].items():
            for name, saved in named.items():
                (self.factors[period] or {})[name].load_state(saved)

    def counters(self) -> dict[str, Any]:
        return {"stages": {k: dict(v) for k, v in self.by_period.items()}}
