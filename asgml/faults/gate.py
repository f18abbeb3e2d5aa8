"""The fault of the step gate: it wants a gradient in every group."""

from __future__ import annotations

from callbacks.stages.gate import StepGate
from callbacks.step.context import StepContext


def empty_groups(applied: dict[str, float]) -> list[str]:
    """Return the groups whose gradient is absent or 0, by the norms of what each would apply."""
    return [name for name, norm in applied.items() if norm == 0.0]


class AllGroupsGate(StepGate):
    """Takes a step only when every group has a gradient: any single empty group skips the whole step.

    Breaks specification A5.1. A held or missing encoder is legitimately empty, so its step is lost for everybody. As
    `t` counts committed steps, an encoder that is held in step t is held for ever, and training stands still.

    Example::

        +fault=all_groups_gate asgml.mode=frequency asgml.masking=hard

    Limits: replays a fault; no run of a method uses it. The YAML file of the fault also puts the alarm of
    `max_consecutive_skips` out of reach, because the fault was silent. Arguments as of `callbacks.StepGate`.
    """

    def decide(self, ctx: StepContext) -> str | None:
        reason = super().decide(ctx)
        empty = empty_groups({name: ctx.host[f"applied/{name}"] for name in ctx.groups})
        return reason or (f"no gradient in every group: {', '.join(empty)}" if empty else None)
