"""StepGate: a step is taken when every gradient is finite and any group has a signal (specification A5)."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Literal

from callbacks.errors import UserError
from callbacks.ranges import Count
from callbacks.step.context import StepContext
from callbacks.step.divergence import LOSSES, bad_weights, diverged_step, moment_of, not_finite, smaller_rate
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage

NO_SIGNAL = "total gradient norm is 0"


def veto_reason(fresh: dict[str, float], applied: dict[str, float], held: Collection[str] = frozenset()) -> str | None:
    """Return a reason to veto the step, or None (specification A5.1).

    One group with a signal is enough: heads, masked encoders and missing modalities leave groups empty legitimately.

    Args:
        fresh: the gradient norm of each group as backward left it.
        applied: the norm of the gradient that each group would apply.
        held: the groups that stand still on purpose; one that had a gradient makes this a step, in which nothing of it
            moves (else delayed groups alone would wait for ever for a stamp of the wanted age).
    """
    for what, norms in (("fresh", fresh), ("applied", applied)):
        bad = [f"{name} ({value})" for name, value in norms.items() if not math.isfinite(value)]
        if bad:
            return f"{what} gradient not finite: {', '.join(bad)}"
    if sum(applied.values()) == 0.0 and not any(fresh[name] > 0.0 for name in held):
        return NO_SIGNAL
    return None


ANOMALY = "+trainer.detect_anomaly=true names it"
DEAD_LOSS = "look at the loss and the data of these batches; nothing that is trained has a part in what is lost"
NOT_FINITE = ("fresh gradient not finite", "applied gradient not finite")  # kinds of reasons


LEAST_SCALE = 1.0  # of an fp16 scaler; one below it has not overflowed, but met NaN


class TooManySkips(UserError):
    """Reports that so many steps in a row were vetoed that training stands still."""


class StepGate(Stage):
    """Decides whether the optimiser moves, counts every skip by reason, and raises when nothing but skips happens.

    A loss that is NaN or infinite ends the run: its name begins with `loss/` or `term/` among the values that the
    module has the step read (`StepContext.reads`). Gradients alone that are not finite skip the step, and end the run
    with the first of them where nothing but such steps follow.

    Example::

        callbacks:
          gate: {_target_: callbacks.StepGate, max_consecutive_skips: 20}

    Limits: reads one small vector from the device per step (the step's only host read). Norms are L2 in fp32, so a
    finite gradient above about 1e19 counts as not finite. While an fp16 scaler searches its first scale, until the
    first step has been taken or the scale is below 1, skips are counted but do not add up to the failure.

    Args:
        max_consecutive_skips: the number of vetoes in a row at which `TooManySkips` is raised; with
            `bad_loss: stop` also at the end of an epoch in which gradients were not finite in every step.
        bad_loss: what becomes of a step with a loss that is not finite: `stop` ends the run, `skip` counts it as one
            more skip (for data with single bad batches).

    Raises:
        Diverged: a loss is not finite, with `bad_loss: stop`.
        TooManySkips: see `max_consecutive_skips`.

    Attributes:
        skipped: the number of vetoed steps.
        consecutive: the number of vetoes since the last committed step.
        since: the step, batch and reason of the first of them; empty without any.
        reasons: the number of vetoes by kind of reason.
    """

    name = "gate"
    phase = Phase.VERDICT

    def __init__(self, max_consecutive_skips: Count = 20, bad_loss: Literal["stop", "skip"] = "stop"):
        self.max_consecutive_skips, self.bad_loss = max_consecutive_skips, bad_loss
        self.skipped = 0
        self.consecutive = 0
        self.since = ("", "")
        self.reasons: dict[str, int] = {}

    def state(self) -> dict[str, Any]:
        counts = {"skipped": self.skipped, "consecutive": self.consecutive, "reasons": dict(self.reasons)}
        return counts if not self.consecutive else {**counts, "since": self.since}

    def load_state(self, state: dict[str, Any]) -> None:
        self.skipped, self.consecutive = state["skipped"], state["consecutive"]
        self.reasons = dict(state["reasons"])
        moment, reason = state.get("since", ("", ""))  # absent where the last step was taken
        self.since = (str(moment), str(reason))

    def counters(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "skip_reasons": dict(self.reasons)}

    def decide(self, ctx: StepContext) -> str | None:
        host = ctx.read_to_host()
        bad = not_finite({name: value for name, value in host.items() if name.startswith(LOSSES)})
        if bad and self.bad_loss == "stop":
            raise diverged_step(ctx, bad)
        fresh, applied = ({g: host[f"{what}/{g}"] for g in ctx.groups} for what in ("fresh", "applied"))
        return veto_reason(fresh, applied, ctx.plan.idle)

    def on_commit(self, ctx: StepContext) -> None:
        self.consecutive, self.since = 0, ("", "")
        ctx.metrics["gate/skipped"] = float(self.skipped)

    def on_veto(self, ctx: StepContext) -> None:
        reason = ctx.veto or ""
        self.skipped += 1
        kind = reason.partition(":")[0]
        self.reasons[kind] = self.reasons.get(kind, 0) + 1
        ctx.metrics["gate/skipped"] = float(self.skipped)
        ctx.events.append(("skip", reason))
        if self._searching(ctx):
            return
        self.consecutive += 1
        if not self.since[0]:
            self.since = (moment_of(ctx), reason)
        if self.consecutive >= self.max_consecutive_skips:
            raise self._too_many(ctx)

    def end_epoch(self, ctx: StepContext) -> None:
        reason = ctx.veto or ""
        everything = self.consecutive >= ctx.trainer.num_training_batches and reason.partition(":")[0] in NOT_FINITE
        if self.bad_loss == "stop" and everything and not self._searching(ctx):
            raise self._too_many(ctx)

    @staticmethod
    def _searching(ctx: StepContext) -> bool:
        """Return whether an fp16 scaler still searches its first scale."""
        scaler = getattr(ctx.trainer.precision_plugin, "scaler", None)
        return scaler is not None and ctx.t == 0 and scaler.get_scale() >= LEAST_SCALE

    def _too_many(self, ctx: StepContext) -> TooManySkips:
        moment, reason = self.since
        held = ", ".join(f"{group} ({why})" for group, why in ctx.plan.reasons.items())
        found = [
            f"{reason}; from there {self.consecutive} optimiser steps in a row were skipped, up to {moment_of(ctx)}",
            *([f"held or delayed: {held}"] if held else []),
        ]
        if reason == NO_SIGNAL:
            expected = "a gradient that moves something"
            return TooManySkips(f"gradients, {moment}", "; ".join(found), expected, DEAD_LOSS)
        found.append(bad_weights(ctx))
        bad = not_finite({g: ctx.host[f"fresh/{g}"] + ctx.host[f"applied/{g}"] for g in ctx.groups})
        remedy = f"{smaller_rate(ctx, list(bad))}; or find the operation: {ANOMALY}"
        return TooManySkips(f"gradients, {moment}", "; ".join(found), "finite gradients", remedy)
