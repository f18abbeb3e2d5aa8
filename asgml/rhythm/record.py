"""ModalityRecord: what every modality did in every committed step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asgml.rhythm.stage import Rhythm
from callbacks.run.history import ACTIONS, ActionCounts
from callbacks.step.context import StepContext
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage


class ModalityRecord(Stage):
    """Records counters, metrics and the timeline of each modality.

    Example (built by `asgml.rhythm.stages`)::

        callbacks: {pipeline: {_target_: callbacks.StepPipeline, stages: […, ModalityRecord(rhythm, "tau")]}}

    Limits: needs the gate in the same pipeline, whose host read brings the losses.

    Args:
        rhythm: the deciding stage of the same pipeline.
        shows: the setting of the rhythm that is logged: `tau` (the delay) or `k` (the interval).

    Attributes:
        done: the number of committed steps in which each modality's encoder updated, moved in part, stood still or had
            no gradient.
        timeline: the rows `(t, modality, action, age, scale)` since they were last drained.
    """

    name = "record"
    phase = Phase.COMMIT

    def __init__(self, rhythm: Rhythm, shows: str):
        self.rhythm, self.shows = rhythm, shows
        self.done = ActionCounts(rhythm.modalities)
        self.timeline: list[tuple[int, str, str, int, float]] = []

    def on_commit(self, ctx: StepContext) -> None:
        rhythm = self.rhythm
        if rhythm.probe is not None:
            ctx.metrics.update({f"U/{m}": v for m, v in rhythm.probe.utilisation.items()})
        ctx.metrics.update(loss_metrics(ctx.host, rhythm.modalities, rhythm.config.gamma))
        settings = rhythm.interval if self.shows == "k" else rhythm.delay
        ctx.metrics.update({f"{self.shows}/{m}": float(value) for m, value in settings.items()})
        for m in rhythm.modalities:
            action, age = self._done(ctx, m)
            self.done.book(m, action)
            self.timeline.append((ctx.t, m, action, age, ctx.factors.get(m, 1.0) if age >= 0 else 0.0))

    def _done(self, ctx: StepContext, m: str) -> tuple[str, int]:
        """Return what modality m did in this step, and the age of the gradient that it applied, -1 for none."""
        mask, buffer = self.rhythm.mask, self.rhythm.buffer
        if mask is not None:
            action = mask.actions[m]
            return action, 0 if ACTIONS[action].moves else -1
        if buffer is not None and m in buffer.delays:
            return buffer.action(m), buffer.age(m, ctx.t)
        if ctx.plan[m].idle:
            return "hold", -1
        return ("update", 0) if ctx.groups[m].gradients() else ("missing", -1)

    def on_veto(self, ctx: StepContext) -> None:
        self.timeline.extend((ctx.t, m, "veto", -1, 0.0) for m in self.rhythm.modalities)

    def drain(self) -> list[tuple[int, str, str, int, float]]:
        rows, self.timeline = self.timeline, []
        return rows

    def counters(self) -> dict[str, Any]:
        return self.done.table()

    def state(self) -> dict[str, Any]:
        return self.done.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.done.load_state(state)


def loss_metrics(host: Mapping[str, float], modalities: Sequence[str], gamma: float) -> dict[str, float]:
    """Return the logged losses, each trained term's share of their sum, and the cosines at the features.

    `train/loss` is `L_fusion + gamma * sum_m L_m` whatever was masked (specification A1.6).

    Args:
        host: the values of the step's host read, with the keys `loss/<m>`, `term/<name>` and `cosine/<m>`.
        modalities: the modalities that take part.
        gamma: the weight of the unimodal losses.
    """
    losses = {k.removeprefix("loss/"): v for k, v in host.items() if k.startswith("loss/")}
    terms = {k.removeprefix("term/"): v for k, v in host.items() if k.startswith("term/")}
    out = {f"train/loss/{k}": v for k, v in losses.items()}
    out["train/loss"] = losses.get("fusion", 0.0) + gamma * sum(v for k, v in losses.items() if k in modalities)
    total = sum(terms.values())
    if total > 0:
        out |= {f"share/{k}": v / total for k, v in terms.items()}
    return out | {k: v for k, v in host.items() if k.startswith("cosine/")}
