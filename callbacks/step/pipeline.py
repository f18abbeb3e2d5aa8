"""StepPipeline: one optimiser step as a transaction of declared stages."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from torch.optim import Optimizer

from callbacks.errors import UserError
from callbacks.ranges import Count
from callbacks.run.history_logger import find_history
from callbacks.step.console import rank_zero_print
from callbacks.step.context import StepContext
from callbacks.step.groups import group_norms, named_groups, norms_by_group
from callbacks.step.hooks import StepHooks
from callbacks.step.norm import NormSnapshot
from callbacks.step.phases import check_order, describe
from callbacks.step.plan import StepPlan


class StepPipeline(L.Callback):
    """Runs the stages of every optimiser step in their declared order, and commits the step or rolls it back.

    A step is a transaction (specification A2.14). Gradients arrive unscaled (Lightning unscales before
    `on_before_optimizer_step`) and reduced over ranks; the fresh norms of all groups are measured; the stages change
    what will be applied; the gate decides. After a veto every gradient is None, normalisation statistics are restored,
    stages drop what they staged, and the optimiser's `step()` is still called (it moves nothing, and an AMP scaler
    still updates its scale). The commit runs in the optimiser's own post-step hook, hence exactly when the optimiser
    has moved: not where an AMP scaler skipped the step.

    Example (`configure_optimizers` names the groups: `[{"params": …, "name": "audio"}, …]`)::

        callbacks:
          pipeline:
            _target_: callbacks.StepPipeline
            stages:
              - {_target_: callbacks.GradientNorms, every: 10}
              - {_target_: callbacks.StalenessBuffer, delays: {audio: 2}}
              - {_target_: callbacks.StepGate}

    Limits: manual or automatic optimisation with exactly one optimiser. With gradient accumulation over several
    batches, a veto restores normalisation statistics to those before the last batch only. A fused optimiser together
    with fp16 is refused, because Lightning does not unscale its gradients before the hook. Under fp16 the AMP scaler
    waits for the device once more, for its own check. LBFGS is refused (its closure runs several times per step).

    Args:
        stages: the stages in the order of their phases (`callbacks.Phase`), your own among them; `StepPipeline.ordered`
            puts them in that order.
        log_every: the number of committed steps between two logged steps of the stages' metrics; null takes the
            trainer's `log_every_n_steps`.
        announce: whether the order of the step is printed at the start of training.

    Attributes:
        t: the number of committed steps.
        vetoed: the number of steps in which nothing was applied.
        ctx: the context of the step in progress, None before training.
    """

    @classmethod
    def ordered(cls, stages: Iterable[StepHooks | None], announce: bool = True) -> StepPipeline:
        """Build a pipeline of the stages that act, sorted by phase; None in place of a stage is left out."""
        acting = [s for s in stages if s is not None and s.acts]
        undeclared = [s for s in acting if s.phase is None]
        return cls(undeclared or sorted(acting, key=lambda s: s.phase or 0), announce=announce)

    def __init__(self, stages: Iterable[StepHooks], log_every: Count | None = None, announce: bool = True):
        self.stages = list(stages)
        check_order(self.stages)
        self.log_every, self.announce = log_every, announce
        self.t = 0
        self.vetoed = 0
        self.ctx: StepContext | None = None
        self._open = False  # whether stages have run and neither commit nor rollback has
        self._stepped = False  # whether this batch has had an optimiser step
        self._started = 0.0
        self._base_lr: dict[str, Any] = {}
        self._hook: Any = None
        self._norms: dict[str, NormSnapshot] = {}
        self._planned = StepPlan()

    @property
    def state_key(self) -> str:
        return "StepPipeline"

    def state_dict(self) -> dict[str, Any]:
        return {"t": self.t, "vetoed": self.vetoed, "stages": {s.name: s.state() for s in self.stages}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.t, self.vetoed = int(state_dict["t"]), int(state_dict["vetoed"])
        saved = state_dict["stages"]
        if set(saved) != {s.name for s in self.stages}:
            raise UserError(
                "checkpoint: StepPipeline",
                f"stages {', '.join(saved)}",
                f"stages {', '.join(s.name for s in self.stages)}",
                f"list the stages {', '.join(saved)} in StepPipeline(stages), or fit without ckpt_path",
            )
        for stage in self.stages:
            stage.load_state(saved[stage.name])

    def stage(self, name: str) -> StepHooks | None:
        """Return the stage of that name, or None where there is none."""
        return next((s for s in self.stages if s.name == name), None)

    def counters(self) -> dict[str, Any]:
        """Return the numbers of `committed` and `vetoed` steps and what every stage counts."""
        out: dict[str, Any] = {"committed": self.t, "vetoed": self.vetoed}
        for stage in self.stages:
            out.update(stage.counters())
        return out

    # -- life of a fit
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise UserError(
                "configure_optimizers()",
                f"{len(trainer.optimizers)} optimisers",
                "one optimiser with named parameter groups (an AMP overflow in one of several corrupts the others)",
                "return one, e.g. SGD([{'params': …, 'name': 'a'}, {'params': …, 'name': 'b'}])",
            )
        optimizer = trainer.optimizers[0]
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise UserError(
                "optimizer.fused",
                "a fused optimiser with fp16",
                "unscaled gradients before the step",
                "leave fused=true out of the optimiser (optimizer.fused), or set trainer.precision=bf16-mixed",
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise UserError(
                "configure_optimizers()",
                "LBFGS",
                "an optimiser that evaluates its loss once per step",
                "return torch.optim.AdamW or torch.optim.SGD instead",
            )
        self.ctx = StepContext(trainer, pl_module, optimizer, named_groups(optimizer), t=self.t)
        self._norms = {name: NormSnapshot(mods) for name, mods in norms_by_group(pl_module, self.ctx.groups).items()}
        self._base_lr.clear()
        self._open = False
        self._hook = optimizer.register_step_post_hook(self._after_optimizer)
        for stage in self.stages:
            stage.prepare(self.ctx)
        if self.announce:
            rank_zero_print("step: " + describe(self.stages))

    def on_train_end(self, trainer, pl_module) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def on_exception(self, trainer, pl_module, exception) -> None:
        self.on_train_end(trainer, pl_module)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        assert self.ctx is not None
        self._started = time.perf_counter()
        self._stepped = False
        self._begin()
        self.ctx.batch = batch
        for snapshot in self._norms.values():
            snapshot.take()
        for stage in self.stages:
            stage.before_forward(self.ctx)

    def _begin(self, plan: StepPlan | None = None) -> None:
        ctx = self.ctx
        assert ctx is not None
        ctx.t, ctx.plan = self.t, plan or StepPlan()
        ctx.fresh, ctx.reads, ctx.host, ctx.scale, ctx.factors, ctx.metrics = {}, {}, {}, {}, {}, {}
        ctx.events = []
        ctx.touched, ctx.borrowed, ctx.known, ctx.veto = set(), set(), {}, None
        ctx.report = False

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        ctx = self.ctx
        assert ctx is not None
        if self._open:  # a second step in the same batch
            self._finish_open_step()
        if self._stepped:
            self._record()
            reads = ctx.reads
            self._begin(self._planned)
            ctx.reads = reads
        self._planned = ctx.plan.copy()  # for a second step in the same batch
        ctx.fresh = dict(zip(ctx.groups, group_norms(list(ctx.groups.values())), strict=True))
        for name in ctx.plan.idle & ctx.groups.keys():
            ctx.hold(name)
        for name in ctx.plan.absent & ctx.groups.keys():
            ctx.groups[name].clear()  # the gradient of an absent modality is a 0 that only DDP needed
        for stage in self.stages:
            stage.on_gradients(ctx)
        for stage in self.stages:
            ctx.veto = ctx.veto or stage.decide(ctx)
        if ctx.veto is not None:
            for group in ctx.groups.values():
                group.clear()
        else:
            for name, factor in ctx.scale.items():
                options = ctx.groups[name].options
                self._base_lr[name] = options["lr"]
                options["lr"] = options["lr"] * factor
        self._open = self._stepped = True

    def _restore_lr(self) -> None:
        assert self.ctx is not None
        for name, lr in self._base_lr.items():
            self.ctx.groups[name].options["lr"] = lr
        self._base_lr.clear()

    def _after_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Commit the step; the optimiser's post-step hook, which runs only when `optimizer.step()` really ran."""
        ctx = self.ctx
        if not self._open or ctx is None or ctx.veto is not None:
            return
        self._open = False
        self._restore_lr()
        for name in ctx.plan.idle:
            if name in self._norms:
                self._norms[name].restore()
        for stage in self.stages:
            stage.on_commit(ctx)
        self.t += 1
        ctx.t = self.t
        for stage in self.stages:
            stage.after_commit(ctx)

    def _finish_open_step(self) -> None:
        """Roll back a step that was vetoed, or that the AMP scaler skipped after the stages had run."""
        ctx = self.ctx
        assert ctx is not None
        self._open = False
        ctx.veto = ctx.veto or "the AMP scaler skipped the step"
        self._restore_lr()
        for group in ctx.groups.values():
            group.clear()
        for snapshot in self._norms.values():
            snapshot.restore()
        self.vetoed += 1
        for stage in self.stages:
            stage.on_veto(ctx)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        ctx = self.ctx
        assert ctx is not None
        if self._open:
            self._finish_open_step()
        self._record()

    def _record(self) -> None:
        """Pass metrics to the loggers at their interval, and events and timeline to the run's history in any case."""
        ctx = self.ctx
        assert ctx is not None
        trainer, epoch = ctx.trainer, ctx.trainer.current_epoch
        every = self.log_every or trainer.log_every_n_steps  # type: ignore[attr-defined]
        if ctx.metrics and (ctx.report or self.t % every == 0 or self.t == 1 or ctx.veto is not None):
            milliseconds = (time.perf_counter() - self._started) * 1e3
            values = {
                **ctx.metrics,
                "time/step_ms": milliseconds,
                "memory/peak_mb": peak_memory_mb(),
                "epoch": epoch,
            }
            for logger in trainer.loggers:
                logger.log_metrics(values, step=self.t)
        history = find_history(trainer)
        for stage in self.stages:
            rows = stage.drain()
            if history is not None:
                for row in rows:
                    history.timeline(*row)
        if history is not None:
            for kind, detail in ctx.events:
                history.event(self.t, epoch, kind, detail)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        assert self.ctx is not None
        for stage in self.stages:
            stage.end_epoch(self.ctx)


def peak_memory_mb() -> float:
    """Return the peak of the process so far in MiB: allocated on the accelerator where one is used, else resident."""
    if torch.cuda.is_initialized():  # asking whether one is available opens the driver's library each time
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
