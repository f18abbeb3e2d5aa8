"""BranchShare: how much gradient the branches of a network leave to its groups, tracked during training."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import Count, NonNegative
from callbacks.stages.branch import branches_of, measured, norm_sums, owners_of, switched
from callbacks.stages.gradient_share import THRESHOLD, advice, gradient_norms
from callbacks.step.console import rank_zero_print
from callbacks.step.context import StepContext, host_read
from callbacks.step.norm import NormSnapshot
from callbacks.step.phases import Phase
from callbacks.step.ranks import sum_over_ranks
from callbacks.step.stage import Stage

WINDOW = 10  # measurements behind a verdict: one draw is noise


class HasShareLoss(Protocol):
    """Describes a module whose gradient shares can be measured."""

    def share_loss(self, batch: Any, rows: int) -> Tensor:
        """Return the loss (0-d) of a batch's first rows, with a graph to every group, without side effects."""
        ...


class BranchShare(Stage):
    """Measures the gradient that reaches each group with the branches over that without them, on the same rows.

    A group's *share* is ‖d loss / d group‖ with all `Branch`es of the module on, over that with all off: same weights,
    same rows, same random draws, so that every variant of a branch has one and the same denominator. Measured are the
    first ten steps, then every `every`-th committed step. After ten measurements the shares so far are printed with the
    norm ratio of branch and stream; a mean of the last ten below 0.8 is warned of, once per group. Logged are
    `share/<g>`, `share/norm_ratio` and the gradient norms below as `share/grad_norm/<g>`.

    The fresh gradient norm of each group, as a mean since the last measurement, is judged as well: within `healthy` it
    is healthy, below `vanishing` a group does not learn, which is warned of once. The bounds are those seen in the
    adapters of AA-CLIP; other losses and sizes have others.

    Example::

        callbacks:
          share: {_target_: callbacks.BranchShare, every: 50, rows: 64}

    Limits: the module offers `share_loss(batch, rows)` and has a `Branch` somewhere. Gradients are taken in fp32,
    outside autocast; the run itself is bit-identical with and without this stage. One measurement costs two forward and
    backward passes over `rows` rows. A share above 1 is possible: what reaches a group through the branch counts as
    well. A group that learns through the branch alone (the modulating modality of FiLM) has no share. With several
    ranks the norms of all ranks' gradients are added. Norms of gradients are means over the steps in which a gate reads
    them.

    Args:
        every: the number of committed steps between two measurements, from the eleventh on.
        rows: the number of rows of a batch that are measured.
        groups: the groups that have a share; null is all but those with weights of the branches. Name them where others
            lie behind the branch: what it changes there is no loss.
        healthy: the lowest and the highest mean gradient norm that is healthy.
        vanishing: the mean gradient norm below which a group does not learn.

    Attributes:
        shares: the share of each group over the last ten measurements, oldest first.
        warned: the groups that were warned of.

    Raises:
        UserError: a number out of its range, a module without branch or without `share_loss`, or an unknown group.
    """

    name = "share"
    phase = Phase.AFTER

    def __init__(
        self,
        every: Count = 50,
        rows: Count = 64,
        groups: list[str] | None = None,
        healthy: tuple[NonNegative, NonNegative] = (0.05, 0.15),
        vanishing: NonNegative = 1e-3,
    ):
        for key, value in (("every", every), ("rows", rows)):
            if value < 1:
                raise UserError(f"BranchShare.{key}", str(value), "1 or more", f"write {key}: 50")
        self.every, self.rows = every, rows
        self.groups, self.healthy, self.vanishing = groups, tuple(healthy), vanishing
        self.shares: dict[str, deque[float]] = {}
        self.ratios: deque[float] = deque(maxlen=WINDOW)
        self.warned: list[str] = []
        self._count = 0  # of measurements
        self._norms: dict[str, list[float]] = {}  # sum and number of fresh norms since the last measurement
        self._health: dict[str, float] = {}

    # -- set-up
    def prepare(self, ctx: StepContext) -> None:
        if not branches_of(ctx.module):
            raise UserError(
                "BranchShare",
                f"{type(ctx.module).__name__} without a branch",
                "a model that adds a branch to a stream: fusion=cross_attention, fusion=film or fusion=gated",
                "leave BranchShare out of the callbacks, or mark the place with callbacks.Branch",
            )
        if not hasattr(ctx.module, "share_loss"):
            raise UserError(
                "BranchShare",
                f"{type(ctx.module).__name__} without share_loss(batch, rows)",
                "a module that returns its loss for some rows of a batch",
                f"write def share_loss(self, batch, rows) in {type(ctx.module).__name__}",
            )
        unknown = [g for g in self.groups or [] if g not in ctx.groups]
        if unknown:
            remedy = f"write groups: [{next(iter(ctx.groups))}], or groups: null for all beside the branches"
            raise UserError("BranchShare.groups", unknown[0], ", ".join(ctx.groups), remedy)

    def _measured_groups(self, ctx: StepContext) -> list[str]:
        if self.groups is not None:
            return list(self.groups)
        own = {id(p) for owner in owners_of(ctx.module) for p in owner.parameters()}
        return [g for g, group in ctx.groups.items() if group.params and not any(id(p) in own for p in group.params)]

    # -- measurement
    def before_forward(self, ctx: StepContext) -> None:
        if ctx.t < WINDOW or ctx.t % self.every == 0:
            self._measure(ctx)

    def _measure(self, ctx: StepContext) -> None:
        names = self._measured_groups(ctx)
        params = [ctx.groups[g].params for g in names]
        device = next(iter(ctx.groups.values())).params[0].device
        loss: Any = ctx.module.share_loss
        statistics = NormSnapshot(ctx.module)
        found: list[Tensor] = []
        sizes = torch.zeros(2)
        for mode in ("on", "off"):
            statistics.take()
            with (
                torch.random.fork_rng([device] if device.type == "cuda" else []),  # the same draws in both
                torch.autocast(device.type, enabled=False),
                torch.enable_grad(),
                measured(ctx.module) as branches,
                switched(ctx.module, mode),
            ):
                found.append(gradient_norms(params, loss(ctx.batch, self.rows)))
                sizes = norm_sums(branches) if mode == "on" else sizes
            statistics.restore()
        packed = torch.cat([*(x.double() for x in found), sizes.to(found[0].device).double()])
        values = host_read(sum_over_ranks(packed))
        with_branch, without = values[: len(names)], values[len(names) : 2 * len(names)]
        self._count += 1
        for g, a, b in zip(names, with_branch, without, strict=True):
            if b > 0:
                self.shares.setdefault(g, deque(maxlen=WINDOW)).append(a / b)
                ctx.metrics[f"share/{g}"] = a / b
        if values[-1] > 0:
            self.ratios.append(values[-2] / values[-1])
            ctx.metrics["share/norm_ratio"] = self.ratios[-1]
        self._judge_norms(ctx)
        ctx.report = True
        if self._count >= WINDOW:
            self._judge(ctx)

    def _judge(self, ctx: StepContext) -> None:
        ratio = _mean(self.ratios) if self.ratios else None
        means = {g: _mean(values) for g, values in self.shares.items()}
        if self._count == WINDOW:
            rows = ", ".join(f"{g} {share:.3f}" for g, share in means.items())
            beside = "" if ratio is None else f"; branch/stream norm {ratio:.3g}"
            rank_zero_print(f"gradient with the branch over that without, mean of {WINDOW} batches: {rows}{beside}")
        for g, share in means.items():
            if share < THRESHOLD and len(self.shares[g]) == WINDOW and g not in self.warned:
                self.warned.append(g)
                self._warn(ctx, f"at step {ctx.t} {advice(g, share, ratio)}")

    def _judge_norms(self, ctx: StepContext) -> None:
        for g, (total, count) in self._norms.items():
            if not count:
                continue
            self._health[g] = ctx.metrics[f"share/grad_norm/{g}"] = total / count
            key = f"norm of {g}"
            if self._health[g] < self.vanishing and key not in self.warned:
                self.warned.append(key)
                self._warn(
                    ctx,
                    f"the gradient of {g} vanishes: mean norm {self._health[g]:.2g} before step {ctx.t}, below "
                    f"{self.vanishing:g} ({self.healthy[0]:g} to {self.healthy[1]:g} is healthy); raise its learning "
                    "rate, or look at what normalises or masks it",
                )
        self._norms = {}

    def _warn(self, ctx: StepContext, message: str) -> None:
        ctx.events.append(("share", message))
        rank_zero_warn(f"BranchShare: {message}")

    def on_commit(self, ctx: StepContext) -> None:
        for g in ctx.groups:
            norm, plan = ctx.host.get(f"fresh/{g}"), ctx.plan[g]
            if norm is not None and plan.graph and not plan.idle and not plan.absent:
                own = self._norms.setdefault(g, [0.0, 0.0])
                own[0], own[1] = own[0] + norm, own[1] + 1

    def verdict(self, norm: float) -> str:
        """Return the word for a mean gradient norm: vanishing, low, healthy or high."""
        low, high = self.healthy
        return "vanishing" if norm < self.vanishing else "low" if norm < low else "healthy" if norm <= high else "high"

    # -- record
    def counters(self) -> dict[str, Any]:
        if not self._count:
            return {}
        return {
            "branch_share": {
                "share": {g: _mean(values) for g, values in self.shares.items()},
                "norm_ratio": _mean(self.ratios) if self.ratios else None,
                "gradient": {g: {"norm": x, "verdict": self.verdict(x)} for g, x in self._health.items()},
                "warned": list(self.warned),
            }
        }

    def state(self) -> dict[str, Any]:
        return {
            "shares": {g: list(values) for g, values in self.shares.items()},
            "ratios": list(self.ratios),
            "warned": list(self.warned),
            "count": self._count,
            "norms": {g: list(v) for g, v in self._norms.items()},
            "health": dict(self._health),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.shares = {g: deque(values, maxlen=WINDOW) for g, values in state["shares"].items()}
        self.ratios = deque(state["ratios"], maxlen=WINDOW)
        self.warned, self._count = list(state["warned"]), int(state["count"])
        self._norms = {g: list(v) for g, v in state["norms"].items()}
        self._health = dict(state["health"])


def _mean(values: deque[float]) -> float:
    return sum(values) / len(values)
