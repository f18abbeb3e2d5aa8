"""StabilityGuard: whether the delay, learning rate and momentum of each group are stable at its curvature."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from callbacks.errors import UserError
from callbacks.ranges import Count, Positive
from callbacks.stages.curvature import curvature_along, sharpest_direction
from callbacks.stages.delay_stability import stability_limit, stable_delay
from callbacks.step.context import StepContext, host_read
from callbacks.step.groups import Group
from callbacks.step.norm import NormSnapshot
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage

OBVIOUS = 3  # margins, beyond which one reading is enough


class HasCurvatureLoss(Protocol):
    """Describes a module whose curvature can be measured."""

    def curvature_loss(self, batch: Any, rows: int, group: str) -> Tensor:
        """Return the training loss (0-d) of a batch's first rows, with a graph to a group, without side effects."""
        ...


class StabilityGuard(Stage):
    """Places every delayed group on the map of delay, momentum and learning rate times curvature, and says when to act.

    A gradient that is tau steps old is stable only while eta h stays below `stability_limit(beta, tau)`, where h is the
    largest curvature of the loss in the group's parameters; momentum 0.9 lowers that limit tenfold and more.
    `eta h / limit` is the group's *load*. The guard measures it at committed step `first`, at four times that, and so
    on, at most `every` steps apart: the sharpest direction on the batch before, the curvature along it on the step's
    own batch (one batch for both would overestimate it), in fp32 and outside autocast. A factor on stale gradients
    counts as part of eta.

    Without momentum networks train at loads of 1 to 3 all the time, because curvature grows until something gives
    (Cohen et al., "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability", ICLR 2021); under
    momentum with a delay nothing gives, and the load goes on rising. A load above `margin` that is still above it
    `confirm` steps later, or one of `OBVIOUS` margins, is warned of, once per group, with what would be stable.

    Example::

        callbacks:
          stability:
            _target_: callbacks.StabilityGuard
            first: 20
            every: 500
            keys: {delay: asgml.tau, lr: optimizer.lr, momentum: optimizer.momentum}

    Limits: SGD (with momentum or Nesterov's) and Adam, AdamW (their second moment as it is); other optimisers, compiled
    modules, SyncBatchNorm and weights of half precision switch it off with a message. Curvature within one group: what
    groups do to each other is left out, and so is weight decay. The module offers `curvature_loss`. It changes nothing
    in the run. One measurement costs the time of a few steps of as many rows (docs/PERFORMANCE.md) and the memory of
    a second backward pass: in runs of a hundred steps it is felt, over a thousand it falls below two per cent. When a
    run resumes at the very step of a measurement, that one is made a step later.

    Args:
        first: the first committed step at which curvature is measured; earlier ones say little.
        every: the largest number of committed steps between two measurements.
        confirm: the number of committed steps after which a load above the margin is measured again.
        rows: the number of rows of a batch that are measured.
        products: the number of Hessian-vector products for the direction.
        margin: the load above which the guard warns.
        keys: how the message calls `delay`, `lr` and `momentum`, so that its remedy can be typed.

    Attributes:
        worst: load, curvature, delay and step of each group where its load was largest.
        confirmed: the groups that were warned of.

    Raises:
        UserError: `first`, `every`, `confirm`, `rows` or `products` below 1, or `margin` not above 0.
    """

    name = "stability"
    phase = Phase.AFTER  # its `before_forward` then sees the finished plan

    def __init__(
        self,
        first: Count = 20,
        every: Count = 500,
        confirm: Count = 10,
        rows: Count = 64,
        products: Count = 3,
        margin: Positive = 3.0,
        keys: dict[str, str] | None = None,
    ):
        counts = {"first": first, "every": every, "confirm": confirm, "rows": rows, "products": products}
        for key, value in counts.items():
            if value < 1:
                raise UserError(f"StabilityGuard.{key}", str(value), "1 or more", f"write {key}: 20")
        if not margin > 0:
            raise UserError("StabilityGuard.margin", str(margin), "above 0", "write margin: 3.0")
        self.first, self.every, self.confirm = first, every, confirm
        self.rows, self.products = rows, products
        self.margin = margin
        self.keys = {"delay": "delay", "lr": "lr", "momentum": "momentum"} | (keys or {})
        self.worst: dict[str, dict[str, float]] = {}
        self.confirmed: list[str] = []
        self._suspected: list[str] = []
        self._regular = first  # the next measurement by the schedule
        self._next = first  # the next measurement at all
        self._batch: Any = None  # that of the step before a measurement
        self._off: str | None = None
        self._told = False

    def prepare(self, ctx: StepContext) -> None:
        self._off = self._reason_to_be_off(ctx)

    def _reason_to_be_off(self, ctx: StepContext) -> str | None:
        """Return why nothing can be measured in this fit, or None."""
        if type(ctx.optimizer) not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
            return f"the map of {type(ctx.optimizer).__name__} is not known"
        modules = list(ctx.module.modules())
        if any(isinstance(m, torch._dynamo.eval_frame.OptimizedModule) for m in modules):
            return "a compiled module cannot be differentiated twice"
        if any(isinstance(m, nn.SyncBatchNorm) for m in modules):
            return "SyncBatchNorm cannot be differentiated twice"
        if any(p.dtype in (torch.float16, torch.bfloat16) for g in ctx.groups.values() for p in g.params):
            return "curvature of half-precision weights is not to be trusted"
        return None

    def before_forward(self, ctx: StepContext) -> None:
        before, self._batch = self._batch, None
        if ctx.t < self._next:
            if ctx.t == self._next - 1:
                self._batch = ctx.batch
            return
        delayed = {g: ctx.plan[g].delay for g in ctx.groups if ctx.plan[g].delay > 0 and not ctx.plan[g].idle}
        if delayed and self._off is None and before is None:  # just resumed
            self._next, self._batch = ctx.t + 1, ctx.batch
            return
        while self._regular <= ctx.t:
            self._regular = min(4 * self._regular, self._regular + self.every)
        self._next = self._regular
        if delayed and self._off is not None:
            if not self._told:
                self._told = True
                rank_zero_warn(f"StabilityGuard is off: {self._off}. Whether these delays are stable is not known.")
        elif delayed:
            self._measure_all(ctx, before, delayed)
            if self._suspected:
                self._next = min(self._regular, ctx.t + self.confirm)

    def _measure_all(self, ctx: StepContext, before: Any, delayed: dict[str, int]) -> None:
        if not hasattr(ctx.module, "curvature_loss"):
            raise UserError(
                "StabilityGuard",
                f"{type(ctx.module).__name__} without curvature_loss(batch, rows, group)",
                "a module that returns its training loss for some rows of a batch",
                "define curvature_loss in the module, or leave the StabilityGuard out of the callbacks",
            )
        for name, tau in delayed.items():
            h = self._measure(ctx, before, ctx.groups[name])
            if h is not None:
                self._judge(ctx, name, tau, h)

    def _measure(self, ctx: StepContext, before: Any, group: Group) -> float | None:
        """Return the curvature as the optimiser sees it, None where there is none to see yet."""
        scale = None
        if not isinstance(ctx.optimizer, torch.optim.SGD):
            if any("exp_avg_sq" not in ctx.optimizer.state[p] for p in group.params):
                return None
            scale = [_adam_scale(ctx.optimizer.state[p], group.options) for p in group.params]
        device = group.params[0].device
        statistics = NormSnapshot(ctx.module)
        statistics.take()
        loss: Any = ctx.module.curvature_loss
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.autocast(device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),  # the fast kernels cannot be differentiated twice
            torch.enable_grad(),
        ):
            direction = sharpest_direction(loss(before, self.rows, group.name), group.params, self.products, scale)
            h = None
            if direction is not None:
                own = loss(ctx.batch, self.rows, group.name)
                h = curvature_along(own, group.params, direction, scale)
        statistics.restore()
        return None if h is None else host_read(h.reshape(1))[0]

    def _judge(self, ctx: StepContext, name: str, tau: int, h: float) -> None:
        lr, beta, nesterov = heavy_ball(ctx.groups[name].options)
        load = lr * ctx.plan[name].factor * h / stability_limit(beta, tau, nesterov)
        ctx.metrics |= {f"stability/load/{name}": load, f"stability/curvature/{name}": h}
        ctx.report = True
        if load > self.worst.get(name, {}).get("load", 0.0):
            self.worst[name] = {"load": load, "curvature": h, "tau": tau, "t": ctx.t}
        if name in self.confirmed:
            return
        if load <= self.margin:
            self._suspected = [n for n in self._suspected if n != name]
        elif name not in self._suspected and load <= OBVIOUS * self.margin:
            self._suspected.append(name)
        else:
            self._suspected = [n for n in self._suspected if n != name]
            self.confirmed.append(name)
            message = self.advice(name, tau, h, ctx)
            ctx.events.append(("stability", message))
            rank_zero_warn(f"StabilityGuard: {message}")

    def advice(self, name: str, tau: int, h: float, ctx: StepContext) -> str:
        """Return one sentence on what is wrong with a group, and one on what would be stable."""
        options, factor = ctx.groups[name].options, ctx.plan[name].factor
        lr, beta, nesterov = heavy_ball(options)
        own, step_curvature = float(options["lr"]), lr * factor * h
        limit = stability_limit(beta, tau, nesterov)
        delay = stable_delay(step_curvature, beta, tau, nesterov)
        ways = [] if delay is None else [f"{self.keys['delay']}={delay}"]
        ways.append(f"{self.keys['lr']}={_floor(own * limit / step_curvature):g}")
        if beta > 0 and isinstance(ctx.optimizer, torch.optim.SGD):
            plain = min(own / (1 - beta), stability_limit(0.0, tau) / (factor * h))
            ways.append(f"{self.keys['momentum']}=0 {self.keys['lr']}={_floor(plain):g}")
        return (
            f"{name} with a delay of {tau}, lr {own:g} and momentum {beta:g} is unstable at step {ctx.t}: a curvature "
            f"of {h:.3g} makes eta h {step_curvature:.3g}, {step_curvature / limit:.1f} times the limit {limit:.3g}; "
            f"training oscillates and may fall apart. Stable here: {', or '.join(ways)}"
        )

    def counters(self) -> dict[str, Any]:
        if not self.worst and not self._told:
            return {}
        return {"stability": {"off": self._off, "confirmed": self.confirmed, "worst": self.worst}}

    def state(self) -> dict[str, Any]:
        return {
            "regular": self._regular,
            "next": self._next,
            "worst": {g: dict(v) for g, v in self.worst.items()},
            "confirmed": list(self.confirmed),
            "suspected": list(self._suspected),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._regular, self._next = int(state["regular"]), int(state["next"])
        self.worst = {g: dict(v) for g, v in state["worst"].items()}
        self.confirmed, self._suspected = list(state["confirmed"]), list(state["suspected"])


def heavy_ball(options: dict[str, Any]) -> tuple[float, float, bool]:
    """Return learning rate, momentum and whether it is Nesterov's, of the form `v = beta v + g`, `w -= lr v`.

    Adam's first moment, an average, is that form with the learning rate times `1 - beta1`; so is SGD's `dampening`.
    """
    lr = float(options["lr"])
    if "betas" in options:
        beta = float(options["betas"][0])
        return lr * (1 - beta), beta, False
    beta = float(options["momentum"])
    return lr * (1 - float(options["dampening"])) if beta else lr, beta, bool(options["nesterov"])


def _adam_scale(state: dict[str, Any], options: dict[str, Any]) -> Tensor:
    """Return `1 / sqrt(sqrt(v) + eps)` of Adam's bias-corrected second moment v."""
    corrected = state["exp_avg_sq"] / (1 - options["betas"][1] ** float(state["step"]))
    return (corrected.sqrt() + options["eps"]).rsqrt()


def _floor(x: float) -> float:
    """Round down to two significant digits."""
    text = f"{x * 0.995:.1e}"
    return float(text) if float(text) <= x else float(f"{x * 0.95:.1e}")
