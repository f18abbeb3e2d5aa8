"""StalenessBuffer: an encoder applies the gradient that was really computed tau steps ago."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.step.context import StepContext
from callbacks.step.groups import Group, require_groups, warn_if_scale_invariant
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage

EMPTY = -1


def compensation(tau: int, lambda_comp: float) -> float:
    """`c(tau) = 1 / (1 + lambda * tau)` (asgml.md §2.6): never above 1; tau 2 at lambda 0.1 gives 0.833."""
    return 1.0 / (1.0 + lambda_comp * tau)


def delay_compensate_(gradients: list[Tensor], now: list[Tensor], then: list[Tensor], mu: float) -> None:
    """In place `g + mu * g*g * (theta_t - theta_{t-tau})` (DC-ASGD, Zheng et al. 2017, Eq. 10), with multi-tensor
    ops."""
    drift = torch._foreach_sub(now, then)
    torch._foreach_mul_(drift, gradients)
    torch._foreach_mul_(drift, gradients)
    torch._foreach_add_(gradients, drift, alpha=mu)


@dataclass
class Due:
    """What a delayed group may do at step t. `action`: update, hold or missing; `stamp`: the stamp to apply
    (update only)."""

    action: Literal["update", "hold", "missing"]
    stamp: int = EMPTY
    warmup: bool = False


@dataclass
class Stamps:
    """Host-side account of one group's ring: which gradient is where, and what has been applied.

    A stamp is the committed step at which a gradient was computed. Every stamp is applied at most once and
    stamps only move forward; stamps that are overtaken are counted as dropped.
    """

    capacity: int
    stored: list[int] = field(default_factory=list)  # per slot: the stamp, or EMPTY
    last: int = -1  # newest stamp applied or overtaken
    applied: int = 0
    held: int = 0
    dropped: int = 0
    missing: int = 0

    def __post_init__(self) -> None:
        self.stored = self.stored or [EMPTY] * self.capacity

    def due(self, t: int, tau: int, present: bool, warmup: str) -> Due:
        """What to do at step t with delay tau (both in committed steps); `present`: is there a fresh gradient?"""
        if not present:
            return Due("missing")
        stamp = t - tau
        if stamp < 0:
            return Due("update", t, warmup=True) if warmup == "fresh" else Due("hold", warmup=True)
        known = stamp == t or self.stored[stamp % self.capacity] == stamp
        if stamp <= self.last or not known:
            return Due("hold")
        return Due("update", stamp)

    def commit(self, t: int, due: Due, present: bool) -> None:
        """Books what was done at step t."""
        slot = t % self.capacity
        if self.stored[slot] > self.last:  # overwritten before it ever came due
            self.dropped += 1
        self.stored[slot] = t if present else EMPTY
        if due.action == "update":
            older = [s for s in self.stored if self.last < s < due.stamp]
            self.dropped += len(older)
            self.last = due.stamp
            self.applied += 1
        elif due.action == "hold":
            self.held += 1
        else:
            self.missing += 1


class Ring:
    """`capacity` preallocated flat gradients of one group, with views in the shapes of its parameters.

    Args:
        group: whose gradients.
        capacity: slots, i.e. the largest delay + 1.
        dtype: of storage; None keeps the parameters' own (bit-exact).
        device: "same" as the parameters, or "cpu" (pinned when CUDA is there).
    """

    def __init__(self, group: Group, capacity: int, dtype: torch.dtype | None, device: Literal["same", "cpu"]):
        first = group.params[0]
        where = first.device if device == "same" else torch.device("cpu")
        self.pinned = where.type == "cpu" and first.device.type == "cuda"
        self.flat = torch.zeros(capacity, group.numel, dtype=dtype or first.dtype, device=where, pin_memory=self.pinned)
        sizes = [p.numel() for p in group.params]
        self.views = [
            [piece.view(p.shape) for piece, p in zip(row.split(sizes), group.params, strict=True)]
            for row in self.flat.unbind()
        ]
        self.has = [[False] * len(sizes) for _ in range(capacity)]  # without a gradient then, without one now
        self.norms: list[Tensor | None] = [None] * capacity

    def push(self, slot: int, params: list[nn.Parameter], norm: Tensor) -> None:
        self.norms[slot] = norm
        self.has[slot] = [p.grad is not None for p in params]
        sources = [p.grad for p in params if p.grad is not None]
        targets = [v for v, h in zip(self.views[slot], self.has[slot], strict=True) if h]
        torch._foreach_copy_(targets, sources, non_blocking=True)

    def lend(self, slot: int, params: list[nn.Parameter]) -> bool:
        """Makes `p.grad` the stored tensors themselves, without a copy; False where they cannot serve as they are."""
        like = params[0]
        if self.flat.dtype != like.dtype or self.flat.device != like.device:
            return False
        if any(p.dtype != like.dtype or not p.is_contiguous() for p in params):
            return False
        for p, view, h in zip(params, self.views[slot], self.has[slot], strict=True):
            p.grad = view if h else None
        return True

    def pop(self, slot: int, params: list[nn.Parameter]) -> None:
        """Copies the slot's gradients into `p.grad`."""
        for p, h in zip(params, self.has[slot], strict=True):
            if not h:
                p.grad = None
            elif p.grad is None:
                p.grad = torch.empty_like(p)
        targets = [p.grad for p in params if p.grad is not None]
        sources = [v for v, h in zip(self.views[slot], self.has[slot], strict=True) if h]
        torch._foreach_copy_(targets, sources, non_blocking=True)

    def push_values(self, slot: int, values: list[Tensor]) -> None:
        torch._foreach_copy_(self.views[slot], values, non_blocking=True)


class StalenessBuffer(Stage):
    """Delays chosen parameter groups: at committed step t group m applies `c(tau) * g_m(t - tau_m)`.

    The gradient is the one really computed tau steps ago, at the weights of that time. tau 0 is bit-identical to
    no buffer. Until a gradient of the wanted age exists the group holds still (`warmup: skip`) or applies the
    fresh one (`fresh`, whose stamp then counts as applied). Delays may change from step to step (`set_delay`),
    up to `max_delay`.

    Example::

        callbacks:
          staleness:
            _target_: callbacks.StalenessBuffer
            delays: {audio: 2}
            compensation: inverse
            lambda_comp: 0.1

    Limits: memory is (delay + 1) × parameters of each delayed group, twice that with `delay_compensated`
        (see the counter `staleness_buffer_mb`). Stored gradients are whatever the ranks agreed on, so all ranks
        hold the same buffer. FSDP is not supported. A group without any gradient in a step (its modality is
        missing) pushes an empty stamp and makes no update.

    Args:
        delays: steps per group, 0 = none.
        warmup: `skip` or `fresh`.
        compensation: `none`, `inverse` (1/(1+lambda*tau)) or `delay_compensated` (DC-ASGD with `mu`).
        lambda_comp: lambda of `inverse`, per step of delay.
        mu: strength of `delay_compensated`.
        through: where the factor of `inverse` acts, on the group's learning rate or on the gradient.
        max_delay: capacity of every group, for delays that change; default each group's own delay.
        dtype: storage type of gradients, `bfloat16` halves their memory; None stores exactly.
        device: `same` or `cpu` (pinned).
    """

    name = "staleness"
    phase = Phase.DELAY

    def __init__(
        self,
        delays: dict[str, int],
        warmup: Literal["skip", "fresh"] = "skip",
        compensation: Literal["none", "inverse", "delay_compensated"] = "inverse",
        lambda_comp: float = 0.1,
        mu: float = 0.04,
        through: Literal["lr", "gradient"] = "lr",
        max_delay: int | None = None,
        dtype: Literal["bfloat16", "float16", "float32"] | None = None,
        device: Literal["same", "cpu"] = "same",
    ):
        for group, tau in delays.items():
            if tau < 0:
                raise UserError(f"delays.{group}", str(tau), "a delay in steps, 0 or more", "use 0 for no delay")
            if max_delay is not None and tau > max_delay:
                raise UserError(f"delays.{group}", str(tau), f"at most max_delay = {max_delay}", "raise max_delay")
        if lambda_comp < 0:
            raise UserError("lambda_comp", str(lambda_comp), "0 or more", "compensation only ever shrinks a stale step")
        self.delays = dict(delays)
        self.warmup, self.compensation, self.lambda_comp, self.mu = warmup, compensation, lambda_comp, mu
        self.through, self.device = through, device
        self.capacity = {g: (tau if max_delay is None else max_delay) + 1 for g, tau in delays.items()}
        self.dtype = getattr(torch, dtype) if dtype else None
        self.stamps: dict[str, Stamps] = {}
        self._rings: dict[str, Ring] = {}
        self._weights: dict[str, Ring] = {}
        self._due: dict[str, Due] = {}
        self._loaded: dict[str, Any] | None = None

    def set_delay(self, group: str, tau: int) -> None:
        """Changes a group's delay from the next step on."""
        if not 0 <= tau < self.capacity[group]:
            raise ValueError(f"delay {tau} of {group} is outside 0..{self.capacity[group] - 1}")
        self.delays[group] = tau

    def prepare(self, ctx: StepContext) -> None:
        require_groups(list(self.delays), ctx.groups, "StalenessBuffer.delays")
        if self.through == "gradient" and self.compensation == "inverse":
            warn_if_scale_invariant(ctx.optimizer, "StalenessBuffer")
        slots = {g: n for g, n in self.capacity.items() if n > 1}
        self._rings = {g: Ring(ctx.groups[g], n, self.dtype, self.device) for g, n in slots.items()}
        if self.compensation == "delay_compensated":
            # always exact: rounding to `dtype` is larger than the drift of the weights in a few steps
            self._weights = {g: Ring(ctx.groups[g], n, None, self.device) for g, n in slots.items()}
        for group, capacity in self.capacity.items():
            self.stamps.setdefault(group, Stamps(capacity))
        if self._loaded is not None:
            for rings, saved in (
                (self._rings, self._loaded["gradients"]),
                (self._weights, self._loaded["weights"]),
            ):
                for group, ring in rings.items():
                    ring.flat.copy_(saved[group]["flat"])
                    ring.has = [list(row) for row in saved[group]["has"]]
                    device = ctx.groups[group].params[0].device
                    ring.norms = [None if n is None else n.to(device) for n in saved[group]["norms"]]
            self._loaded = None

    def before_forward(self, ctx: StepContext) -> None:
        for name, tau in self.delays.items():
            if tau > 0:
                ctx.plan[name].delay, ctx.plan[name].reason = tau, f"applies the gradient of {tau} steps ago"

    def on_gradients(self, ctx: StepContext) -> None:
        self._due.clear()
        for name, tau in self.delays.items():
            group, stamps = ctx.groups[name], self.stamps[name]
            present = any(p.grad is not None for p in group.params)
            due = self._due[name] = stamps.due(ctx.t, tau, present, self.warmup)
            ring = self._rings.get(name)
            if ring is not None and present:
                ring.push(ctx.t % stamps.capacity, group.params, ctx.norm(name))
                if name in self._weights:
                    self._weights[name].push_values(ctx.t % stamps.capacity, [p.detach() for p in group.params])
            if due.action != "update":
                ctx.hold(name)
                continue
            if due.stamp != ctx.t and ring is not None:
                self._apply(ctx, name, ring, due.stamp)

    def _apply(self, ctx: StepContext, name: str, ring: Ring, stamp: int) -> None:
        group, age = ctx.groups[name], ctx.t - stamp
        slot = stamp % self.stamps[name].capacity
        norm = ring.norms[slot]
        if norm is not None and ring.lend(slot, group.params):
            ctx.lend(name, norm)
        else:
            ring.pop(slot, group.params)
            ctx.writable(name)
        if self.compensation == "inverse":
            ctx.rescale(name, compensation(age, self.lambda_comp), self.through)
        elif self.compensation == "delay_compensated":
            ctx.writable(name)
            stored = self._weights[name].views[slot]
            rows = [
                (p.grad, p.detach(), w.to(p)) for p, w in zip(group.params, stored, strict=True) if p.grad is not None
            ]
            gradients, now, then = (list(column) for column in zip(*rows, strict=True))
            delay_compensate_(gradients, now, then, self.mu)

    def age(self, group: str, t: int) -> int:
        """Age of what this step applies: 0 fresh, -1 nothing."""
        due = self._due[group]
        return t - due.stamp if due.action == "update" else -1

    def action(self, group: str) -> str:
        """update, hold or missing, of the step in progress."""
        return self._due[group].action

    def on_commit(self, ctx: StepContext) -> None:
        for name, due in self._due.items():
            self.stamps[name].commit(ctx.t, due, due.action != "missing")

    def counters(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            what: {g: getattr(s, what) for g, s in self.stamps.items()}
            for what in ("applied", "held", "dropped", "missing")
        }
        size = sum(r.flat.numel() * r.flat.element_size() for r in [*self._rings.values(), *self._weights.values()])
        out["staleness_buffer_mb"] = size / 2**20
        return out

    def state(self) -> dict[str, Any]:
        def rings(source: dict[str, Ring]) -> dict[str, Any]:
            if any(r.pinned for r in source.values()):
                torch.cuda.synchronize()  # copies into pinned memory may still be under way
            return {
                g: {
                    "flat": r.flat.detach().cpu().clone(),
                    "has": [list(row) for row in r.has],
                    "norms": [None if n is None else n.detach().cpu().clone() for n in r.norms],
                }
                for g, r in source.items()
            }

        stamps = {
            g: {k: getattr(s, k) for k in ("capacity", "stored", "last", "applied", "held", "dropped", "missing")}
            for g, s in self.stamps.items()
        }
        return {
            "delays": dict(self.delays),
            "stamps": {g: {**s, "stored": list(s["stored"])} for g, s in stamps.items()},
            "gradients": rings(self._rings),
            "weights": rings(self._weights),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.delays = dict(state["delays"])
        self.stamps = {g: Stamps(**{**s, "stored": list(s["stored"])}) for g, s in state["stamps"].items()}
        self._loaded = {"gradients": state["gradients"], "weights": state["weights"]}
