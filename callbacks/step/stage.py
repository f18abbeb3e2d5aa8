"""Stage: one idea inside an optimiser step, and what the stages of a step share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from callbacks.errors import UserError
from callbacks.step.groups import SCALE_INVARIANT, Group, group_norms

if TYPE_CHECKING:
    from callbacks.step.pipeline import StepPipeline


@dataclass
class StepContext:
    """What the stages of one optimiser step share.

    Attributes:
        t: committed optimiser steps so far (not Lightning's `global_step`, which also counts vetoed steps).
        groups: the optimiser's named parameter groups.
        fresh: per group, the norm of the gradient as it came out of backward (0-d tensors, unscaled).
        reads: named 0-d tensors to be brought to the host together with the verdict (the step's one host read).
        host: the values of that read, by name (`fresh/<group>`, `applied/<group>`, and the names in `reads`).
        touched: groups whose gradient a stage has changed since `fresh` was measured.
        scale: per group, the factor that acts on the learning rate in this step.
        borrowed: groups whose gradients are tensors that a stage keeps (see `lend`).
        known: norms of changed gradients, as far as measured.
        held: groups whose parameters and normalisation statistics stay as they are in this step.
        veto: the reason why nothing is applied in this step, or None.
        metrics: values to log for this step.
        report: a stage has measured something at its own interval: log `metrics` of this step in any case.
    """

    trainer: L.Trainer
    module: L.LightningModule
    optimizer: Optimizer
    groups: dict[str, Group]
    t: int = 0
    fresh: dict[str, Tensor] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    scale: dict[str, float] = field(default_factory=dict)
    borrowed: set[str] = field(default_factory=set)
    known: dict[str, Tensor] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    veto: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    report: bool = False
    events: list[tuple[str, str]] = field(default_factory=list)

    def rescale(self, group: str, factor: float, through: str) -> None:
        """Scales what group applies in this step by `factor`, through its learning rate or its gradient."""
        if factor == 1.0:
            return
        if through == "lr":
            self.scale[group] = self.scale.get(group, 1.0) * factor
            return
        gradients = self.writable(group)
        if gradients:
            torch._foreach_mul_(gradients, factor)

    def hold(self, group: str) -> None:
        """Nothing of this group moves in this step: no gradient, and its normalisation buffers go back."""
        self.groups[group].clear()
        self.held.add(group)
        self.touched.add(group)
        self.borrowed.discard(group)
        self.known.pop(group, None)

    def lend(self, group: str, norm: Tensor) -> None:
        """The group's gradients now are another stage's stored tensors, whose norm is known: read, do not write."""
        self.touched.add(group)
        self.borrowed.add(group)
        self.known[group] = norm

    def writable(self, group: str) -> list[Tensor]:
        """The group's gradients, to be changed in place (borrowed ones are copied first)."""
        params = [p for p in self.groups[group].params if p.grad is not None]
        if group in self.borrowed:
            for p in params:
                p.grad = p.grad.clone()  # type: ignore[union-attr]
            self.borrowed.discard(group)
        self.touched.add(group)
        self.known.pop(group, None)
        return [p.grad for p in params if p.grad is not None]

    def norm(self, group: str) -> Tensor:
        """Norm of what the group would apply as things stand (0-d, on the device)."""
        if group not in self.touched:
            return self.fresh[group]
        if group not in self.known:
            self.known[group] = group_norms([self.groups[group]])[0]
        return self.known[group]

    def read_to_host(self) -> dict[str, float]:
        """The one declared device-to-host copy of the step: fresh and applied norms, and everything in `reads`."""
        fresh = list(self.fresh.values())
        applied = [self.norm(name) for name in self.groups]
        names = [*(f"fresh/{g}" for g in self.groups), *(f"applied/{g}" for g in self.groups), *self.reads]
        values = [*fresh, *applied, *self.reads.values()]
        dtype = torch.float64 if any(v.dtype == torch.float64 for v in values) else torch.float32
        packed = torch.stack([v.detach().to(dtype) for v in values])
        self.host = dict(zip(names, host_read(packed), strict=True))
        return self.host


def host_read(packed: Tensor) -> list[float]:
    """The only place where a step waits for the device."""
    return packed.tolist()


class Stage(L.Callback):
    """One idea inside an optimiser step. List stages in a `StepPipeline`; a single one may also stand in
    `callbacks=[…]` by itself.

    A stage changes gradients in `on_gradients` and keeps what it changed in its own state *staged* until
    `on_commit`; after `on_veto` its state is what it was before the step.
    """

    name: str = "stage"

    _solo: StepPipeline | None = None

    # -- the stage's own hooks
    def prepare(self, ctx: StepContext) -> None:
        """Once per fit, when groups and device are known (a loaded state is already there, on the CPU)."""

    def before_forward(self, ctx: StepContext) -> None:
        """Before the forward pass of a batch."""

    def on_gradients(self, ctx: StepContext) -> None:
        """After backward, on unscaled and reduced gradients."""

    def decide(self, ctx: StepContext) -> str | None:
        """The gate's word: a reason not to step, or None."""
        return None

    def on_commit(self, ctx: StepContext) -> None:
        """The optimiser has moved; `ctx.t` still counts the steps before this one."""

    def on_veto(self, ctx: StepContext) -> None:
        """Nothing was applied: drop what was staged."""

    def after_commit(self, ctx: StepContext) -> None:
        """After all stages have committed and `ctx.t` has advanced."""

    def end_epoch(self, ctx: StepContext) -> None:
        """At the end of a training epoch, before checkpoints."""

    def drain(self) -> list[tuple[int, str, str, int, float]]:
        """Rows `(t, group, action, age, scale)` for the run's timeline since the last call."""
        return []

    def counters(self) -> dict[str, Any]:
        """Counts that belong into the run's result."""
        return {}

    def state(self) -> dict[str, Any]:
        """What the stage must remember over a restart: plain dicts, lists, numbers and tensors."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Called before `prepare`, with tensors on the CPU."""

    # -- alone in Trainer(callbacks=[…]): a pipeline of one
    @property
    def state_key(self) -> str:
        return f"Stage:{self.name}"

    def state_dict(self) -> dict[str, Any]:
        return self._solo.state_dict() if self._solo else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._solo:
            self._solo.load_state_dict(state_dict)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        from callbacks.step.pipeline import StepPipeline

        if stage != "fit":
            return
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(c, StepPipeline) for c in callbacks) or sum(isinstance(c, Stage) for c in callbacks) > 1:
            raise UserError(
                "Trainer(callbacks)",
                f"the stage '{self.name}' beside another stage or a StepPipeline",
                "one StepPipeline that lists all stages",
                "callbacks=[StepPipeline([…])]: the order inside one step must be declared once",
            )
        if self._solo is None:
            self._solo = StepPipeline([self], announce=False)

    def on_train_start(self, trainer, pl_module) -> None:
        if self._solo:
            self._solo.on_train_start(trainer, pl_module)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self._solo:
            self._solo.on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if self._solo:
            self._solo.on_before_optimizer_step(trainer, pl_module, optimizer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self._solo:
            self._solo.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if self._solo:
            self._solo.on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer, pl_module) -> None:
        if self._solo:
            self._solo.on_train_end(trainer, pl_module)

    def on_exception(self, trainer, pl_module, exception) -> None:
        if self._solo:
            self._solo.on_exception(trainer, pl_module, exception)


@rank_zero_only
def rank_zero_print(line: str) -> None:
    """One line for the user, whatever the logging level."""
    print(line, flush=True)


def warn_if_scale_invariant(optimizer: Optimizer, who: str) -> None:
    """Says once that a factor on the gradient changes nothing under Adam-like optimisers."""
    if isinstance(optimizer, SCALE_INVARIANT):
        rank_zero_warn(
            f"{who}: 'through: gradient' with {type(optimizer).__name__} has no effect "
            "(the factor cancels in the update); "
            "use 'through: lr'."
        )
