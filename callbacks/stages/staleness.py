"""StalenessBuffer: an encoder applies the gradient that was really computed tau steps ago (specification A2.1)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from callbacks.errors import UserError
from callbacks.ranges import Delay, NonNegative
from callbacks.stages.stale_gradients import CopyRing, Due, Ring, Stamps, StoredType
from callbacks.step.context import StepContext
from callbacks.step.groups import Group, Through, require_groups, warn_if_scale_invariant
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage


def compensation(tau: int, lambda_comp: float) -> float:
    """Return `c(tau) = 1 / (1 + lambda * tau)`, never above 1; 0.833 at tau 2 and lambda 0.1 (specification A2.6)."""
    return 1.0 / (1.0 + lambda_comp * tau)


def delay_compensate_(gradients: list[Tensor], now: list[Tensor], then: list[Tensor], mu: float) -> None:
    """Turn gradients g in place into `g + mu * g * g * (theta_t - theta_{t-tau})`, elementwise.

    This is the delay compensation of DC-ASGD (Zheng et al., "Asynchronous Stochastic Gradient Descent with Delay
    Compensation", ICML 2017, eq. 10), with multi-tensor operations.

    Args:
        gradients: g, computed tau steps ago, one tensor per parameter.
        now: theta_t, the parameters as they are.
        then: theta_{t-tau}, the parameters at which `gradients` were computed.
        mu: the strength of the compensation.
    """
    drift = torch._foreach_sub(now, then)
    torch._foreach_mul_(drift, gradients)
    torch._foreach_mul_(drift, gradients)
    torch._foreach_add_(gradients, drift, alpha=mu)


def memory_is_reused(model: nn.Module | None) -> bool:
    """Return whether the next backward pass writes into the memory of gradients that were set to None (DDP buckets)."""
    parts = [] if model is None else model.modules()
    return any(isinstance(m, DistributedDataParallel) and m.gradient_as_bucket_view for m in parts)


class StalenessBuffer(Stage):
    """Delays chosen parameter groups: at committed step t, group m applies `c(tau_m) * g_m(t - tau_m)`.

    The gradient is the one really computed tau steps ago, at the weights of that time. A delay of 0 is bit-identical to
    no buffer. Until a gradient of the wanted age exists the group stands still (`warmup: skip`) or applies the fresh
    one (`fresh`, whose stamp then counts as applied). Delays may change from step to step, up to `max_delay`
    (`set_delay`).

    Example::

        callbacks:
          staleness:
            _target_: callbacks.StalenessBuffer
            delays: {audio: 2}
            compensation: inverse
            lambda_comp: 0.1

    Limits: what is stored are the tensors that autograd made, without a copy; they are copied for another `dtype` or
    `device`, and where their memory is used again (DDP with `gradient_as_bucket_view`). Memory is delay × parameters of
    each delayed group between two steps (see the counter `staleness_buffer_mb`), (delay + 1) × where gradients are
    copied, and (delay + 1) × more for the weights of `delay_compensated`. CUDA graphs, which use the memory of
    gradients again unseen, and FSDP are not supported. Stored gradients are those that the ranks have reduced, so all
    ranks hold the same buffer. A group without any gradient in a step (its modality is missing) stores an empty stamp
    and makes no update.

    Args:
        delays: the delay of each group, in committed steps; 0 is none.
        warmup: what a group does until a gradient of the wanted age exists: `skip` stands still, `fresh` applies the
            fresh gradient.
        compensation: what makes up for the age of a gradient: `none`, `inverse` (the factor `1 / (1 + lambda * tau)`)
            or `delay_compensated` (DC-ASGD, with `mu`).
        lambda_comp: lambda of `inverse`, per step of delay.
        mu: the strength of `delay_compensated`.
        through: where the factor of `inverse` acts: on the group's learning rate (`lr`), on its `gradient`, or (`auto`)
            on the gradient under SGD and on the learning rate under Adam-like optimisers, which cancel a constant
            factor on the gradient.
        max_delay: the largest delay that a group may be given later; null takes each group's own delay.
        dtype: the type in which gradients are stored; a 16-bit type halves their memory, null stores exactly.
        device: where gradients are stored: the `same` device as the parameters, or the `cpu` (pinned where those are on
            CUDA).

    Attributes:
        delays: the delay of each group as it is now.
        capacity: the number of slots of each group, its largest delay + 1.
        stamps: the stamps and counters of each group.

    Raises:
        UserError: a delay below 0 or above `max_delay`, `lambda_comp` below 0, or an unknown group.
    """

    name = "staleness"
    phase = Phase.DELAY

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
    ):
        for group, tau in delays.items():
            where = f"StalenessBuffer.delays.{group}"
            if tau < 0:
                raise UserError(where, str(tau), "a delay in steps, 0 or more", f"write {group}: 0 for no delay")
            if max_delay is not None and tau > max_delay:
                raise UserError(where, str(tau), f"at most max_delay = {max_delay}", f"write max_delay: {tau}")
        if lambda_comp < 0:
            raise UserError(
                "StalenessBuffer.lambda_comp",
                str(lambda_comp),
                "0 or more: compensation only shrinks a stale step",
                "write lambda_comp: 0.1, or compensation: none",
            )
        self.delays = dict(delays)
        self.warmup, self.compensation, self.lambda_comp, self.mu = warmup, compensation, lambda_comp, mu
        self.through, self.device = through, device
        self.capacity = {g: (tau if max_delay is None else max_delay) + 1 for g, tau in delays.items()}
        self.dtype = getattr(torch, dtype) if dtype else None
        self.stamps: dict[str, Stamps] = {}
        self._rings: dict[str, Ring | CopyRing] = {}
        self._weights: dict[str, CopyRing] = {}
        self._clipped_later = False
        self._due: dict[str, Due] = {}
        self._loaded: dict[str, Any] | None = None

    def set_delay(self, group: str, tau: int) -> None:
        """Change a group's delay to tau committed steps from the next step on.

        Raises:
            ValueError: the buffer of the group is too short for that delay.
        """
        if not 0 <= tau < self.capacity[group]:
            raise ValueError(f"delay {tau} of {group} is outside 0..{self.capacity[group] - 1}")
        self.delays[group] = tau

    def prepare(self, ctx: StepContext) -> None:
        require_groups(list(self.delays), ctx.groups, "StalenessBuffer.delays")
        if self.through == "gradient" and self.compensation == "inverse":
            warn_if_scale_invariant(ctx.optimizer, "StalenessBuffer")
        slots = {g: n for g, n in self.capacity.items() if n > 1}
        reused = memory_is_reused(ctx.trainer.strategy.model)
        self._rings = {g: self._ring(ctx.groups[g], n, reused) for g, n in slots.items()}
        if self.compensation == "delay_compensated":
            # always exact: rounding to `dtype` would be larger than what the weights move in a few steps
            self._weights = {g: CopyRing(ctx.groups[g], n, None, self.device) for g, n in slots.items()}
        # Lightning's own clipping comes after the stages, and an AMP scaler may skip the step after that
        scaler = getattr(ctx.trainer.precision_plugin, "scaler", None)
        self._clipped_later = scaler is not None and bool(ctx.trainer.gradient_clip_val)
        for group, capacity in self.capacity.items():
            self.stamps.setdefault(group, Stamps(capacity))
        if self._loaded is not None:
            for kind, rings in (("gradients", self._rings), ("weights", self._weights)):
                for group, ring in rings.items():
                    ring.load_state(self._loaded[kind][group])
            self._loaded = None

    def _ring(self, group: Group, capacity: int, reused: bool) -> Ring | CopyRing:
        """Return the slots of a group: copies only where its gradients' own tensors cannot be kept."""
        other_type = self.dtype is not None and any(p.dtype != self.dtype for p in group.params)
        elsewhere = self.device == "cpu" and any(p.device.type != "cpu" for p in group.params)
        if reused or other_type or elsewhere:
            return CopyRing(group, capacity, self.dtype, self.device)
        return Ring(group, capacity)

    def before_forward(self, ctx: StepContext) -> None:
        for name, tau in self.delays.items():
            ctx.plan[name].delay = tau
            if tau > 0:
                if self.compensation == "inverse":
                    ctx.plan[name].factor = compensation(tau, self.lambda_comp)
                ctx.plan[name].reason = f"applies the gradient of {tau} steps ago"

    def on_gradients(self, ctx: StepContext) -> None:
        self._due.clear()
        for name in self.delays:
            group, stamps, tau = ctx.groups[name], self.stamps[name], ctx.plan[name].delay
            present = any(p.grad is not None for p in group.params)
            due = self._due[name] = stamps.due(ctx.t, tau, present, self.warmup)
            ring = self._rings.get(name)
            if ring is not None and present and due.stamp != ctx.t:  # a fresh one that is applied is not needed again
                ring.push(ctx.t % stamps.capacity, ctx.norm(name))
                if name in self._weights:
                    self._weights[name].push_values(ctx.t % stamps.capacity)
            if due.action != "update":
                ctx.hold(name)
                continue
            if due.stamp != ctx.t and ring is not None:
                self._apply(ctx, name, ring, due.stamp)

    def _apply(self, ctx: StepContext, name: str, ring: Ring | CopyRing, stamp: int) -> None:
        group = ctx.groups[name]
        slot = stamp % self.stamps[name].capacity
        norm = ring.norms[slot]
        if ring.pop(slot) and norm is not None:
            ctx.lend(name, norm)
            if self._clipped_later:
                ctx.writable(name)
        else:
            ctx.writable(name)
        if self.compensation == "inverse":
            ctx.rescale(name, ctx.plan[name].factor, self.through)
        elif self.compensation == "delay_compensated":
            ctx.writable(name)
            stored = self._weights[name].views[slot]
            rows = [
                (p.grad, p.detach(), w.to(p)) for p, w in zip(group.params, stored, strict=True) if p.grad is not None
            ]
            gradients, now, then = (list(column) for column in zip(*rows, strict=True))
            delay_compensate_(gradients, now, then, self.mu)

    def age(self, group: str, t: int) -> int:
        """Return the age, in committed steps, of the gradient that the group applies in this step, -1 where none."""
        due = self._due[group]
        return t - due.stamp if due.action == "update" else -1

    def action(self, group: str) -> str:
        """Return what the group does in the step in progress: `update`, `hold` or `missing`."""
        return self._due[group].action

    def on_commit(self, ctx: StepContext) -> None:
        for name, due in self._due.items():
            stamps, ring = self.stamps[name], self._rings.get(name)
            stamps.commit(ctx.t, due, due.action != "missing")
            if ring is not None:
                for slot, stamp in enumerate(stamps.stored):
                    if stamp <= stamps.last:  # applied, overtaken or empty: never due again
                        ring.drop(slot)
                ring.settle()

    def on_veto(self, ctx: StepContext) -> None:
        for name in self._due.keys() & self._rings.keys():
            self._rings[name].drop(ctx.t % self.stamps[name].capacity)

    def counters(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            what: {g: getattr(s, what) for g, s in self.stamps.items()}
            for what in ("applied", "held", "dropped", "missing")
        }
        out["staleness_buffer_mb"] = sum(r.bytes for r in [*self._rings.values(), *self._weights.values()]) / 2**20
        return out

    def state(self) -> dict[str, Any]:
        stamps = {
            g: {k: getattr(s, k) for k in ("capacity", "stored", "last", "applied", "held", "dropped", "missing")}
            for g, s in self.stamps.items()
        }
        return {
            "delays": dict(self.delays),
            "stamps": {g: {**s, "stored": list(s["stored"])} for g, s in stamps.items()},
            "gradients": {g: r.state() for g, r in self._rings.items()},
            "weights": {g: r.state() for g, r in self._weights.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.delays = dict(state["delays"])
        self.stamps = {g: Stamps(**{**s, "stored": list(s["stored"])}) for g, s in state["stamps"].items()}
        self._loaded = {"gradients": state["gradients"], "weights": state["weights"]}
