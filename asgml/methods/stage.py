"""The pipeline stage in which methods change gradients and learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgml.methods.base import Method, Step
from callbacks.stage import Stage, StepContext


class Modulation(Stage):
    """Runs `on_gradients` and `group_lr` of every method, in order, on the module's current `Step`.

    Example::

        methods: {ogm_ge: {_target_: asgml.methods.ogm_ge.OGMGE, alpha: 0.8}}

    Limits: reads `module.step`, which an ASGML module sets in its training step.
    """

    name = "modulation"

    def __init__(self, methods: Mapping[str, Method]):
        self.methods = dict(methods)

    def on_gradients(self, ctx: StepContext) -> None:
        step: Step = ctx.module.step  # type: ignore[assignment]
        groups = {name: group.params for name, group in ctx.groups.items()}
        for method in self.methods.values():
            ctx.touched |= method.on_gradients(step, groups)
            for group, factor in method.group_lr(step).items():
                ctx.rescale(group, factor, "lr")

    def state(self) -> dict[str, Any]:
        return {name: method.state() for name, method in self.methods.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        for name, method in self.methods.items():
            method.load_state(state[name])
