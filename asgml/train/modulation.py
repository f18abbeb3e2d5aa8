"""Modulation: the stage in which methods hold encoders, change gradients and learning rates, and commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from asgml.methods.base import Epoch, Method, Selection, Step, uses
from callbacks.step.context import StepContext
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage


class Modulation(Stage):
    """Runs the step hooks of every method, in order, on the current `Step`.

    Example::

        methods: {ogm_ge: {_target_: asgml.methods.OGMGE, alpha: 0.8}}

    Limits: the module sets `step` after every forward pass of training and calls `begin_epoch` before every epoch.

    Args:
        methods: the methods of the run by name, in order.

    Attributes:
        step: the step in progress.
        selection: the samples that a method has chosen for the epoch, None for all.
        selected: the number of the epoch that `selection` is for.
        train: the mean training losses of the finished epoch, as `train/loss/<m>`.
    """

    name = "modulation"
    phase = Phase.MODULATE

    def __init__(self, methods: Mapping[str, Method]):
        self.methods = dict(methods)
        self.step: Step | None = None
        self.selection: Selection | None = None
        self.selected = -1
        self.train: dict[str, float] = {}
        everyone = list(self.methods.values())  # a hook that a method does not have is not called
        self._idle = [m for m in everyone if uses(m, "idle")]
        self._modulate = [m for m in everyone if uses(m, "on_gradients") or uses(m, "group_lr")]
        self._commit = [m for m in everyone if uses(m, "on_commit")]
        self._reads_training = any(uses(m, "on_epoch") or uses(m, "select") for m in everyone)
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    # -- epochs
    def begin_epoch(self, epoch: Epoch) -> None:
        """Call `on_epoch` of all methods, then let them choose the samples of the epoch."""
        for method in self.methods.values():
            method.on_epoch(epoch)
        self.selection, self.selected = None, epoch.number
        for method in self.methods.values():
            self.selection = method.select(epoch) or self.selection

    def end_epoch(self, ctx: StepContext) -> None:
        self.train = {f"train/{k}": total / self._counts[k] for k, total in self._sums.items()}
        self._sums, self._counts = {}, {}

    # -- steps
    def before_forward(self, ctx: StepContext) -> None:
        for method in self._idle:
            for m in method.idle(ctx.t, ctx.trainer.current_epoch):
                ctx.plan.hold(m, f"held by {type(method).__name__}", graph=False)

    def on_gradients(self, ctx: StepContext) -> None:
        step = self.step
        assert step is not None
        if step.gradients:
            _unscale(ctx, step)
        if self._modulate:
            groups = {name: group.params for name, group in ctx.groups.items()}
            for method in self._modulate:
                ctx.touched |= method.on_gradients(step, groups)
                for group, factor in method.group_lr(step).items():
                    ctx.rescale(group, factor, "lr")
        ctx.reads.update({f"method/{key}": value for key, value in step.reads.items()})

    def on_commit(self, ctx: StepContext) -> None:
        step = self.step
        assert step is not None
        if step.reads:
            logged = {key: ctx.host[f"method/{key}"] for key in step.reads}
            ctx.metrics.update(logged)
            step.host = {**ctx.host, **logged}
        else:
            step.host = ctx.host
        for method in self._commit:
            method.on_commit(step)
        if self._reads_training:
            for key, value in ctx.host.items():
                if key.startswith("loss/"):
                    self._sums[key] = self._sums.get(key, 0.0) + value
                    self._counts[key] = self._counts.get(key, 0) + 1

    # -- checkpoints
    def state(self) -> dict[str, Any]:
        chosen = self.selection
        return {
            "methods": {name: method.state() for name, method in self.methods.items()},
            "sums": dict(self._sums),
            "counts": dict(self._counts),
            "selected": self.selected,
            "selection": None if chosen is None else {"index": chosen.index.cpu(), "drop": _on_cpu(chosen.drop)},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        for name, method in self.methods.items():
            method.load_state(state["methods"][name])
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
        self.selected = state["selected"]
        chosen = state["selection"]
        self.selection = None if chosen is None else Selection(chosen["index"], dict(chosen["drop"]))


def _on_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {m: t.cpu() for m, t in tensors.items()}


def _unscale(ctx: StepContext, step: Step) -> None:
    """Divide the gradients of the step's parts by the AMP scaler's factor, as `p.grad` has been by now."""
    scaler = getattr(ctx.trainer.precision_plugin, "scaler", None)
    if scaler is None or not scaler.is_enabled():
        return
    seen: set[int] = {id(p.grad) for group in ctx.groups.values() for p in group.params}  # unscaled already
    scaled = [
        g
        for part in step.gradients.values()
        for gradients in part.values()
        for g in gradients
        if g is not None and id(g) not in seen
    ]
    if scaled:
        torch._foreach_mul_(scaled, scaler._scale.double().reciprocal().float())
