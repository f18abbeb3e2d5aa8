"""Faults of the staleness buffer: the wrong age, the wrong factor, the wrong scale."""

from __future__ import annotations

from typing import Literal

from callbacks.errors import UserError
from callbacks.ranges import Count, Delay, NonNegative
from callbacks.stages.stale_gradients import CopyRing, Ring, StoredType
from callbacks.stages.staleness import StalenessBuffer
from callbacks.step.context import StepContext
from callbacks.step.groups import Through


class OffByOneBuffer(StalenessBuffer):
    """Applies `c(tau) * g_m(t - tau + 1)`: the gradient is stored before the stale one is looked for.

    A delay of 1 is then none at all, and 2 is 1. Breaks specification A2.1. The factor stays that of the delay which
    the configuration names, so that nothing but the age is wrong.

    Example::

        +fault=off_by_one asgml.mode=staleness asgml.tau=1

    Limits: replays a fault; no run of a method uses it. Arguments as of `callbacks.StalenessBuffer`.
    """

    def before_forward(self, ctx: StepContext) -> None:
        super().before_forward(ctx)
        for name, tau in self.delays.items():
            ctx.plan[name].delay = max(0, tau - 1)

    def on_gradients(self, ctx: StepContext) -> None:
        super().on_gradients(ctx)
        for name, due in self._due.items():
            if self.delays[name] == 1 and due.action == "update" and self.compensation == "inverse":
                ctx.rescale(name, ctx.plan[name].factor, self.through)  # the base leaves a fresh gradient as it is


def inverted_compensation(tau: int, lambda_comp: float) -> float:
    """Return `1 + lambda * tau`, the inverse of what a stale gradient's factor has to be: 1.2 at tau 2, lambda 0.1."""
    return 1.0 + lambda_comp * tau


class InvertedCompensationBuffer(StalenessBuffer):
    """Multiplies a gradient of age tau by `1 + lambda * tau`: the staler a gradient, the larger the step.

    Breaks specification A2.6.

    Example::

        +fault=inverted_compensation asgml.mode=staleness asgml.tau=2

    Limits: replays a fault; no run of a method uses it. Arguments as of `callbacks.StalenessBuffer`; only the
    compensation `inverse` has a factor to turn over.
    """

    def before_forward(self, ctx: StepContext) -> None:
        super().before_forward(ctx)
        for name, tau in self.delays.items():
            if tau > 0 and self.compensation == "inverse":
                ctx.plan[name].factor = inverted_compensation(tau, self.lambda_comp)


def loss_scale(t: int, growth_interval: int, overflow_after: int) -> float:
    """Return the loss scale at committed step t, over the smallest that occurs: 1 or 2.

    As `torch.amp.GradScaler` moves it near the largest scale that fp16 bears: after `growth_interval` committed steps
    without an overflow it doubles; `overflow_after` steps later a gradient overflows, that step is skipped (it is no
    committed one), and the scale is halved.

    Args:
        t: the number of committed steps.
        growth_interval: the number of steps without an overflow after which the scale doubles.
        overflow_after: the number of committed steps at the doubled scale, less than `growth_interval`.
    """
    return 2.0 if t % (growth_interval + overflow_after) >= growth_interval else 1.0


class AmpScaledBuffer(StalenessBuffer):
    """Stores gradients with the loss scale of their own step and unscales them with that of the step that applies them.

    A delayed gradient is thereby multiplied by `scale(t - tau) / scale(t)`: by 1/2 for tau steps after the loss scale
    has doubled, by 2 for tau steps after it was halved, and by 1 otherwise. Breaks specification A2.9. The loss scale
    is simulated (`loss_scale`), so that the run and its correct twin differ in nothing else: both train in float32, and
    neither skips the step that would have overflowed.

    Example::

        +fault=amp_scaled_buffer asgml.mode=staleness asgml.tau=2 asgml.parts.buffer.growth_interval=120

    Limits: replays a fault; no run of a method uses it. Other arguments as of `callbacks.StalenessBuffer`.

    Args:
        growth_interval: the number of committed steps after which the simulated loss scale doubles; 2000 as in
            `torch.amp.GradScaler`.
        overflow_after: the number of committed steps after which the doubled scale is halved again.

    Raises:
        UserError: `overflow_after` is below 1, or not below `growth_interval`.
    """

    def __init__(
        self,
        delays: dict[str, Delay],
        warmup: Literal["skip", "fresh"] = "skip",
        compensation: Literal["none", "inverse", "delay_compensated"] = "inverse",
        lambda_comp: NonNegative = 0.1,
        mu: NonNegative = 0.04,
        through: Through = "auto",
        max_delay: Delay | None = None,
        dtype: StoredType | None = None,
        device: Literal["same", "cpu"] = "same",
        growth_interval: Count = 2000,
        overflow_after: Count = 1000,
    ):
        super().__init__(delays, warmup, compensation, lambda_comp, mu, through, max_delay, dtype, device)
        if not 1 <= overflow_after < growth_interval:
            raise UserError(
                "AmpScaledBuffer.overflow_after",
                f"{overflow_after} with growth_interval {growth_interval}",
                "1 or more and less than growth_interval: at that step the scale would have doubled once more",
                f"write overflow_after: {max(1, growth_interval // 2)}",
            )
        self.growth_interval, self.overflow_after = growth_interval, overflow_after

    def _apply(self, ctx: StepContext, name: str, ring: Ring | CopyRing, stamp: int) -> None:
        super()._apply(ctx, name, ring, stamp)
        then, now = (loss_scale(t, self.growth_interval, self.overflow_after) for t in (stamp, ctx.t))
        ctx.rescale(name, then / now, "gradient")
