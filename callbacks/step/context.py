"""StepContext: what the stages of one optimiser step share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from callbacks.step.groups import Group, Through, acts_on, group_norms
from callbacks.step.plan import StepPlan


@dataclass
class StepContext:
    """Holds what the stages of one optimiser step share.

    Attributes:
        trainer: the trainer of the fit.
        module: the module under training.
        optimizer: the one optimiser.
        groups: the optimiser's named parameter groups.
        batch: the batch of the step in progress.
        t: the number of committed optimiser steps so far (not Lightning's `global_step`, which also counts vetoed
            steps).
        plan: what every group may do in this step.
        fresh: per group, the L2 norm of the gradient as it came out of backward (0-d tensors, unscaled).
        reads: the named 0-d tensors to be brought to the host together with the norms (the step's one host read).
        host: the values of that read, by name (`fresh/<group>`, `applied/<group>`, and the names in `reads`).
        touched: the groups whose gradient a stage has changed since `fresh` was measured.
        scale: per group, the factor that acts on the learning rate in this step.
        factors: per group, the product of all factors of this step, wherever they act.
        borrowed: the groups whose gradients are tensors that a stage keeps (see `lend`).
        known: the norms of changed gradients, as far as measured.
        veto: the reason why nothing is applied in this step, or None.
        metrics: the values to log for this step.
        report: whether a stage has measured something at its own interval, so that `metrics` are logged in any case.
        events: the pairs of kind and detail for the run's history.
    """

    trainer: L.Trainer
    module: L.LightningModule
    optimizer: Optimizer
    groups: dict[str, Group]
    batch: Any = None
    t: int = 0
    plan: StepPlan = field(default_factory=StepPlan)
    fresh: dict[str, Tensor] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    scale: dict[str, float] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)
    borrowed: set[str] = field(default_factory=set)
    known: dict[str, Tensor] = field(default_factory=dict)
    veto: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    report: bool = False
    events: list[tuple[str, str]] = field(default_factory=list)

    def rescale(self, group: str, factor: float, through: Through) -> None:
        """Scale what a group applies in this step by `factor`.

        Args:
            group: the name of the group.
            factor: the factor.
            through: where it acts: on the group's learning rate (`lr`), on its `gradient` as it is at this moment, or
                where a constant factor belongs under the optimiser (`auto`, see `acts_on`).
        """
        if factor == 1.0:
            return
        self.factors[group] = self.factors.get(group, 1.0) * factor
        if acts_on(self.optimizer, through) == "lr":
            self.scale[group] = self.scale.get(group, 1.0) * factor
            return
        gradients = self.writable(group)
        if gradients:
            torch._foreach_mul_(gradients, factor)

    def hold(self, group: str) -> None:
        """Hold a group in this step: no gradient is applied, and its normalisation statistics are restored."""
        self.groups[group].clear()
        self.plan[group].idle = True
        self.touched.add(group)
        self.borrowed.discard(group)
        self.known.pop(group, None)

    def lend(self, group: str, norm: Tensor) -> None:
        """Note that the group's gradients are now tensors which a stage stores, not to be written, and their norm."""
        self.touched.add(group)
        self.borrowed.add(group)
        self.known[group] = norm

    def writable(self, group: str) -> list[Tensor]:
        """Return the group's gradients for changes in place; borrowed ones are copied first."""
        params = [p for p in self.groups[group].params if p.grad is not None]
        if group in self.borrowed:
            for p in params:
                p.grad = p.grad.clone()  # type: ignore[union-attr]
            self.borrowed.discard(group)
        self.touched.add(group)
        self.known.pop(group, None)
        return [p.grad for p in params if p.grad is not None]

    def norm(self, group: str) -> Tensor:
        """Return the L2 norm of the gradient that the group would apply as things stand (0-d, on the device)."""
        if group not in self.touched:
            return self.fresh[group]
        if group not in self.known:
            self.known[group] = group_norms([self.groups[group]])[0]
        return self.known[group]

    def read_to_host(self) -> dict[str, float]:
        """Make the step's one copy from device to host, of fresh and applied norms and `reads`, and return `host`."""
        fresh = list(self.fresh.values())
        applied = [self.norm(name) for name in self.groups]
        names = [*(f"fresh/{g}" for g in self.groups), *(f"applied/{g}" for g in self.groups), *self.reads]
        values = [*fresh, *applied, *self.reads.values()]
        dtype = torch.float64 if any(v.dtype == torch.float64 for v in values) else torch.float32
        packed = torch.stack([v.detach().to(dtype) for v in values])
        self.host = dict(zip(names, host_read(packed), strict=True))
        return self.host


def host_read(packed: Tensor) -> list[float]:
    """Return the values of a 1-d tensor. No other place in a step waits for the device."""
    return packed.tolist()
