"""StageClock: before every step, which stage it belongs to, which groups move, and how fast."""

from __future__ import annotations

from typing import Any

from asgml.feedback.train.stages import Plan, StageOf
from callbacks.step.context import StepContext
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage


class StageClock(Stage):
    """Holds the groups that the epoch's stage does not train, and sets the learning rates of those that it does.

    `ctx.plan.part` is the stage's name, so that `TrainableAudit` asks for gradients within each stage. What the step
    brought to the host under `loss/` is logged as `train/loss`, `train/loss/text` and `train/loss/image`.

    Args:
        plan: the stages over epochs.

    Attributes:
        steps: the committed steps of each stage so far.
        present: the stage of the step in progress.
    """

    name = "stage"
    phase = Phase.DECIDE

    def __init__(self, plan: Plan):
        self.plan = plan
        self.steps: dict[str, int] = {s.name: 0 for s in plan.stages}
        self.present: StageOf | None = None
        self._begun = ""

    def before_forward(self, ctx: StepContext) -> None:
        stage = self.present = self.plan.stage(ctx.trainer.current_epoch)
        if self._begun != stage.name:
            moved = ", ".join(g for g in ctx.groups if g in stage.trains)
            ctx.events.append(("stage", f"{stage.name}: trains {moved}"))
            self._begun = stage.name
        ctx.plan.part = stage.name
        for name, group in ctx.groups.items():
            if name in stage.trains:
                group.options["lr"] = stage.rate(self.steps[stage.name])
            else:
                ctx.plan.hold(name, f"not trained in stage {stage.name}", graph=False)

    def on_commit(self, ctx: StepContext) -> None:
        assert self.present is not None
        self.steps[self.present.name] += 1
        for name, value in ctx.host.items():
            if name.startswith("loss/"):
                ctx.metrics["train/loss"] = value
                ctx.metrics[f"train/{name}"] = value

    def state(self) -> dict[str, Any]:
        return {"steps": dict(self.steps), "stage": self._begun}

    def load_state(self, state: dict[str, Any]) -> None:
        self.steps, self._begun = dict(state["steps"]), str(state["stage"])

    def counters(self) -> dict[str, Any]:
        return {"steps": dict(self.steps)}
