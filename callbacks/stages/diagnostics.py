"""GradientNorms: how much gradient each group gets, and how far it really moves (specification A6.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from callbacks.ranges import Count, PositiveShare
from callbacks.step.console import rank_zero_print
from callbacks.step.context import StepContext, host_read
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage


class GradientNorms(Stage):
    """Logs per group the gradient norm, its share, ‖Δparam‖, the update-to-weight ratio and the Fisher trace.

    Logged are the first step and then every `every`-th committed step, as `grad_norm/<g>`, `grad_share/<g>` (of the
    root of the summed squares), `delta/<g>`, `update_ratio/<g>`, `lr/<g>` and `fisher/<g>`; the first step is also
    printed, with the learning rate that each group had in it, so that "loss flat, Δparam 0" is seen in the first
    minute. The Fisher trace is the moving average of the squared norm of the mini-batch gradient: the empirical trace
    up to the batch's averaging, which is compared with itself over time (specification A6.4).

    Example::

        callbacks:
          diagnostics: {_target_: callbacks.GradientNorms, every: 10}

    Limits: norms come with the gate's host read; without a gate in the pipeline a logging step reads them itself. On
    logging steps ‖Δparam‖ costs a copy of the parameters and one further host read.

    Args:
        every: the number of committed steps between two logged steps.
        fisher_ema: the weight of a new squared norm in the Fisher trace.
        announce: whether the first step is printed.

    Attributes:
        fisher: the Fisher trace of each group that has had a gradient.
        moved: the largest logged ‖Δparam‖ of each group.
    """

    name = "diagnostics"
    phase = Phase.MEASURE

    def __init__(self, every: Count = 10, fisher_ema: PositiveShare = 0.1, announce: bool = True):
        self.every, self.fisher_ema, self.announce = every, fisher_ema, announce
        self.fisher: dict[str, float] = {}
        self.moved: dict[str, float] = {}
        self._before: dict[str, list[Tensor]] = {}

    def _logs(self, t: int) -> bool:
        return t == 0 or (t + 1) % self.every == 0

    def on_gradients(self, ctx: StepContext) -> None:
        self._before.clear()
        if self._logs(ctx.t):
            for name, group in ctx.groups.items():
                copies = [torch.empty_like(p) for p in group.params]
                if copies:
                    torch._foreach_copy_(copies, [p.detach() for p in group.params])
                self._before[name] = copies

    def on_commit(self, ctx: StepContext) -> None:
        if not ctx.host:
            if not self._before:
                return
            ctx.read_to_host()
        norms = {g: ctx.host[f"fresh/{g}"] for g in ctx.groups}
        for g, value in norms.items():
            if value > 0:
                old = self.fisher.get(g)
                self.fisher[g] = value**2 if old is None else old + self.fisher_ema * (value**2 - old)
        if not self._before:
            return
        ctx.report = True
        delta, ratio = self._movement(ctx)
        total = sum(v**2 for v in norms.values()) ** 0.5
        for g in ctx.groups:
            ctx.metrics[f"grad_norm/{g}"] = norms[g]
            ctx.metrics[f"grad_share/{g}"] = norms[g] / total if total > 0 else 0.0
            ctx.metrics[f"delta/{g}"] = delta[g]
            ctx.metrics[f"update_ratio/{g}"] = ratio[g]
            ctx.metrics[f"lr/{g}"] = float(ctx.groups[g].options["lr"])
            if g in self.fisher:
                ctx.metrics[f"fisher/{g}"] = self.fisher[g]
            self.moved[g] = max(self.moved.get(g, 0.0), delta[g])
        if self.announce and ctx.t == 0:
            lr = {g: group.options["lr"] * ctx.scale.get(g, 1.0) for g, group in ctx.groups.items()}
            rows = ", ".join(f"{g} ‖g‖ {norms[g]:.3g} ‖Δ‖ {delta[g]:.3g} lr {lr[g]:.3g}" for g in ctx.groups)
            rank_zero_print(f"first step: {rows}")

    def _movement(self, ctx: StepContext) -> tuple[dict[str, float], dict[str, float]]:
        """Return ‖Δparam‖ of each group and its ratio to the norm of the weights before the step."""
        names, packed = list(ctx.groups), []
        for name in names:
            params = [p.detach() for p in ctx.groups[name].params]
            if not params:
                packed += [torch.zeros(()), torch.zeros(())]
                continue
            moved = torch._foreach_norm(torch._foreach_sub(params, self._before[name]))
            packed.append(torch.linalg.vector_norm(torch.stack(moved)).float())
            packed.append(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._before[name]))).float())
        values = host_read(torch.stack(packed))
        delta = dict(zip(names, values[::2], strict=True))
        weight = dict(zip(names, values[1::2], strict=True))
        self._before.clear()
        return delta, {g: delta[g] / weight[g] if weight[g] > 0 else 0.0 for g in names}

    def on_veto(self, ctx: StepContext) -> None:
        self._before.clear()

    def counters(self) -> dict[str, Any]:
        return {"max_delta": dict(self.moved)}

    def state(self) -> dict[str, Any]:
        return {"fisher": dict(self.fisher), "moved": dict(self.moved)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.fisher, self.moved = dict(state["fisher"]), dict(state["moved"])
