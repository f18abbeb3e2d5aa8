"""GroupClip: gradient clipping per parameter group, inside the step's transaction."""

from __future__ import annotations

import torch

from callbacks.errors import UserError
from callbacks.ranges import Positive
from callbacks.step.context import StepContext
from callbacks.step.groups import require_groups
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage


class GroupClip(Stage):
    """Scales each group's gradient to an L2 norm of at most `max_norm`.

    A bound per group keeps a strong encoder from clipping a weak one. Lightning's own `gradient_clip_val` raises under
    manual optimisation, and `self.clip_gradients` would see scaled fp16 gradients.

    Example::

        callbacks:
          clip: {_target_: callbacks.GroupClip, max_norm: 5.0, groups: {audio: 1.0}}

    Limits: clips what will be applied (after delay, compensation and masks), not the fresh gradient. No host read.

    Args:
        max_norm: the largest norm of every group; null clips only the groups in `groups`.
        groups: the largest norm of single groups, by name, in place of `max_norm`.

    Raises:
        UserError: a bound is 0 or less, or `groups` names no group of the optimiser.
    """

    name = "clip"
    phase = Phase.CLIP

    def __init__(self, max_norm: Positive | None, groups: dict[str, Positive] | None = None):
        self.max_norm, self.bounds = max_norm, dict(groups or {})
        for name, bound in {"max_norm": max_norm, **self.bounds}.items():
            if bound is not None and bound <= 0:
                remedy = "set callbacks.clip.max_norm=null for no bound"
                if name != "max_norm":
                    remedy = f"set callbacks.clip.groups.{name} to a norm above 0, say 1.0"
                raise UserError(f"clip: {name}", str(bound), "a norm above 0", remedy)

    @property
    def acts(self) -> bool:
        return self.max_norm is not None or bool(self.bounds)

    def prepare(self, ctx: StepContext) -> None:
        require_groups(list(self.bounds), ctx.groups, "GroupClip.groups")

    def on_gradients(self, ctx: StepContext) -> None:
        for name, group in ctx.groups.items():
            bound = self.bounds.get(name, self.max_norm)
            if bound is None or not group.gradients():
                continue
            norm = ctx.norm(name)
            # `where` keeps a norm that is not finite from spreading NaN to healthy tensors before the gate decides
            factor = torch.where(
                torch.isfinite(norm), (bound / norm.clamp(min=1e-12)).clamp(max=1.0), torch.ones_like(norm)
            )
            torch._foreach_mul_(ctx.writable(name), factor)
