"""Weight averages (EMA, SWA) that move only after real steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Count, Multiple, Rate, ShareBelowOne, Steps
from callbacks.step.groups import named_groups, require_groups
from callbacks.step.modes import evaluating
from callbacks.step.norm import recompute_statistics, running_layers
from callbacks.step.stage import find_pipeline

Statistics = Literal["averaged", "recomputed"]
HOOK = "forward_training_data"


class _CommittedAveraging(WeightAveraging):
    """Updates the average once per committed step that is due, and evaluates it once there is one.

    Until the first update validation, checkpoints and the end of the fit have the weights as they are; Lightning's own
    averaging has the initial ones there. No update waits for the device.
    """

    _pipeline = None

    def __init__(self, every: Count, start: Steps, statistics: Statistics):
        name = type(self).__name__
        if every < 1:
            raise UserError(f"{name}.every", str(every), "1 step or more", "set callbacks.averaging.every=1")
        if start < 0:
            raise UserError(f"{name}.start", str(start), "a step, 0 or more", "set callbacks.averaging.start=0")
        if statistics not in ("averaged", "recomputed"):
            remedy = "set callbacks.averaging.statistics=averaged or callbacks.averaging.statistics=recomputed"
            raise UserError(f"{name}.statistics", str(statistics), "averaged or recomputed", remedy)
        # buffers are not averaged as such: an average of integer counters or codebooks has no meaning
        super().__init__(use_buffers=False)
        self.every, self.start, self.statistics = every, start, statistics
        self._seen = 0
        self._updates = 0  # of the average; on the host, so that nothing waits for the device
        self._stale = False  # whether the average's statistics are those of other weights
        self._swapped = False
        self._layers: list[str] = []

    def _move(self, average: list[Tensor], newest: list[Tensor]) -> None:
        """Take the newest tensors into an average of earlier ones, in place; the first are copied, not averaged."""
        raise NotImplementedError

    def due(self, t: int) -> bool:
        """Return whether the weights after committed step t enter the average."""
        return t >= self.start and t % self.every == 0

    # -- life of a fit
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._updates, self._stale, self._swapped = 0, False, False
            # a layer that is in evaluation mode already is frozen: its statistics are given
            self._layers = [name for name, layer in running_layers(pl_module).items() if layer.training]
            if self.statistics == "recomputed" and self._layers and not hasattr(pl_module, HOOK):
                raise UserError(
                    f"{type(self).__name__}.statistics",
                    f"recomputed, and {type(pl_module).__name__} has no {HOOK}()",
                    "a module that can pass over its training data",
                    f"write def {HOOK}(self) in {type(pl_module).__name__}: it runs the forward pass of every training "
                    "batch, always the same ones; or set callbacks.averaging.statistics=averaged",
                )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self._average_model is not None
        self._average_model.to(pl_module.device)  # made before the module was moved there

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pipeline = find_pipeline(trainer)
        self._seen = self._pipeline.t if self._pipeline else 0

    def _steps(self, trainer: L.Trainer) -> int:
        """Return the number of committed steps; without a pipeline, of optimiser steps."""
        return self._pipeline.t if self._pipeline else trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        t = self._steps(trainer)
        moved, self._seen = t > self._seen, t
        if moved and self.due(t):
            self._update(pl_module)
            self._latest_update_step = trainer.global_step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do nothing: steps alone count."""

    @torch.no_grad()
    def _update(self, module: nn.Module) -> None:
        assert self._average_model is not None
        average = self._average_model.module
        mine, newest = ([p.detach() for p in net.parameters()] for net in (average, module))
        own, theirs = self._running(average), self._running(module)
        kept = [b.clone() for b in own] if self.statistics == "averaged" and self._updates else []
        for b, source in zip(average.buffers(), module.buffers(), strict=True):
            b.copy_(source)
        if self._updates:
            self._move(mine, newest)
            if kept:
                self._move(kept, theirs)
                torch._foreach_copy_(own, kept)
        else:
            torch._foreach_copy_(mine, newest)
        self._average_model.n_averaged += 1
        self._updates += 1
        self._stale = True

    def _running(self, module: nn.Module) -> list[Tensor]:
        """Return the running means and variances of the layers that training moves."""
        layers, running = running_layers(module), ("running_mean", "running_var")
        return [layers[name].get_buffer(buffer) for name in self._layers for buffer in running]

    # -- where the average is used
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._average_model is not None and self._updates:
            self._swap_models(pl_module)
            self._swapped = True
            self._recompute(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._swapped:
            self._swap_models(pl_module)
            self._swapped = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._updates:
            rank_zero_warn(
                f"{type(self).__name__}: training ended at step {self._steps(trainer)}, before the first average "
                f"(start {self.start}, every {self.every}); the weights are the last ones."
            )
            return
        self._copy_average_to_current(pl_module)
        self._recompute(trainer, pl_module)
        assert self._average_model is not None
        for b, source in zip(self._average_model.module.buffers(), pl_module.buffers(), strict=True):
            b.copy_(source)

    def _recompute(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the module, which holds the average, the statistics of its own activations."""
        if self.statistics == "averaged" or not self._stale or not self._layers:
            return
        layers = running_layers(pl_module)
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            recompute_statistics([layers[name] for name in self._layers], getattr(pl_module, HOOK))
        self._stale = False

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # The module holds the average since `on_train_end`; kept, it would stand in for whatever weights a later
        # `Trainer.validate` is to evaluate.
        if stage == "fit":
            self._average_model = None

    # -- checkpoints
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._average_model is not None and not self._updates:
            checkpoint["state_dict"] = checkpoint["current_model_state"]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if self._average_model is not None and "averaging_state" in checkpoint:
            self._updates = int(checkpoint["averaging_state"]["n_averaged"])
            self._stale = self._updates > 0  # a checkpoint from between two evaluations has the last step's


class EMAWeights(_CommittedAveraging):
    """Keeps an exponential moving average of the weights, which validation and the saved `state_dict` use.

    Lightning's own averaging also counts steps that a gate or an AMP scaler has skipped; this one asks the
    `StepPipeline`. Running statistics of normalisation layers are averaged like the weights (as timm's `ModelEmaV2`
    does), or recomputed before the average is evaluated (see `SWAWeights`); other buffers are those of the last update.

    Example::

        callbacks:
          ema: {_target_: callbacks.EMAWeights, decay: 0.999, start: 0}

    Limits: it does not work with sharded strategies (as Lightning's `WeightAveraging`). Without a `StepPipeline` every
    optimiser step counts.

    Args:
        decay: the factor on the average in each update.
        every: the number of committed steps between updates.
        start: the first committed step that counts; until the first update the weights themselves are evaluated.
        statistics: what running statistics of normalisation layers the average has: `averaged` like the weights, or
            `recomputed` over the training data.

    Raises:
        UserError: a number out of its range, or `recomputed` with a module that cannot pass over its training data.
    """

    def __init__(
        self, decay: ShareBelowOne = 0.999, every: Count = 1, start: Steps = 0, statistics: Statistics = "averaged"
    ):
        super().__init__(every, start, statistics)
        if not 0 <= decay < 1:
            raise UserError("EMAWeights.decay", str(decay), "from 0 to below 1", "set callbacks.averaging.decay=0.999")
        self.decay = decay

    def _move(self, average: list[Tensor], newest: list[Tensor]) -> None:
        # a + (b - a) w is a where both are equal, to the last bit: what is frozen stays as it is
        torch._foreach_lerp_(average, newest, 1 - self.decay)


class SWAWeights(_CommittedAveraging):
    """Keeps the equal-weight average of the weights at certain committed steps (SWA, Izmailov et al., UAI 2018).

    The weights after step `start` are the first, then those after every `every`-th step (the paper's cycle length c).
    From the step after `start` on, `swa_lr` takes the place of the scheduled learning rate. With `cycle` above 1 it
    falls linearly within each cycle (their eq. in section 3.2, alpha_1 = cycle * swa_lr, alpha_2 = swa_lr), and the
    average takes the weights at its end:

        lr(i) = swa_lr * ((1 - p) * cycle + p),    p = ((i - 1) mod every + 1) / every,    i = 1, 2, … after `start`.

    Before the average is evaluated, the running statistics of its normalisation layers are recomputed in one pass over
    the training data (their algorithm 1; as `torch.optim.swa_utils.update_bn`, but with dropout off): means over the
    batches of each batch's mean and variance. They are in `best.ckpt` and in the weights after training; `last.ckpt`
    has those of its step, from which a resumed run recomputes them.

    Example::

        callbacks:
          swa: {_target_: callbacks.SWAWeights, start: 5000, every: 100, swa_lr: 0.01}

    Limits: as `EMAWeights`; the pass costs about a third of an epoch per validation after an update. Recomputing needs
    a module with `forward_training_data()`, which runs its forward pass over the same training batches in every call;
    a module without running statistics needs nothing. A value of `swa_lr` above the rate that training ended with
    lowers the accuracy of single weights, which is intended.

    Args:
        start: the first committed step whose weights count; until then the weights themselves are evaluated.
        every: the number of committed steps between updates, the length of a cycle.
        swa_lr: the learning rate after `start`, one for all parameter groups or by group; groups that are not named,
            and all with null, keep the scheduled one.
        cycle: the learning rate at the beginning of a cycle over that at its end; 1 is constant.
        statistics: what running statistics of normalisation layers the average has: `recomputed` over the training
            data, or `averaged` like the weights.

    Raises:
        UserError: a number out of its range, an unknown group, or a module that cannot pass over its training data.
    """

    def __init__(
        self,
        start: Steps,
        every: Count = 100,
        swa_lr: Rate | Annotated[dict[str, Rate], NOT_EMPTY] | None = None,
        cycle: Multiple = 1.0,
        statistics: Statistics = "recomputed",
    ):
        super().__init__(every, start, statistics)
        self.swa_lr = dict(swa_lr) if isinstance(swa_lr, Mapping) else swa_lr
        rates = self.swa_lr if isinstance(self.swa_lr, dict) else {"": self.swa_lr}
        for group, rate in rates.items():
            if rate is not None and rate < 0:
                key = f"swa_lr.{group}" if group else "swa_lr"
                raise UserError(f"SWAWeights.{key}", str(rate), "0 or more", f"set callbacks.averaging.{key}=0.01")
        if cycle < 1:
            remedy = "set callbacks.averaging.cycle=1 for a constant rate"
            raise UserError("SWAWeights.cycle", str(cycle), "1 or more", remedy)
        if cycle > 1 and swa_lr is None:
            raise UserError(
                "SWAWeights.cycle",
                f"{cycle} without swa_lr",
                "the rate at a cycle's end",
                "set callbacks.averaging.swa_lr=0.01",
            )
        self.cycle = cycle

    def due(self, t: int) -> bool:
        return t >= max(1, self.start) and (t - self.start) % self.every == 0

    def rate(self, t: int, group: str) -> float | None:
        """Return a group's learning rate in the step after committed step t, None where the schedule's holds."""
        low = self.swa_lr.get(group) if isinstance(self.swa_lr, dict) else self.swa_lr
        if low is None or t < self.start:
            return None
        p = ((t - self.start) % self.every + 1) / self.every
        return low * ((1 - p) * self.cycle + p)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if isinstance(self.swa_lr, dict):
            for optimizer in trainer.optimizers:
                require_groups(list(self.swa_lr), named_groups(optimizer), "SWAWeights.swa_lr")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.swa_lr is None:
            return
        t = self._steps(trainer)
        for optimizer in trainer.optimizers:
            for number, options in enumerate(optimizer.param_groups):
                rate = self.rate(t, str(options.get("name", f"group{number}")))
                if rate is not None:
                    options["lr"] = rate

    def _move(self, average: list[Tensor], newest: list[Tensor]) -> None:
        step = torch._foreach_sub(newest, average)
        torch._foreach_div_(step, self._updates + 1)
        torch._foreach_add_(average, step)
