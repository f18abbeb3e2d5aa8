"""MultimodalModule: the Lightning module around network, methods and rhythm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from asgml.data.dataset import Batch, first_rows, to_device
from asgml.methods.base import Epoch, Method, Step, Survey, uses
from asgml.model.net import FUSION, MultimodalNet
from asgml.rhythm.stage import Rhythm
from asgml.train.curvature import fused_loss, loss_of_group
from asgml.train.forward import Encoded, Forward
from asgml.train.inference import active, fused_prediction, fusing, predictions_of
from asgml.train.method_support import (
    check_masking,
    check_methods,
    install_modules,
    install_selection,
    never_act,
    reinitialise,
)
from asgml.train.modulation import Modulation
from asgml.train.parts import backward_in_parts
from asgml.train.predictions import Predictions
from asgml.train.survey import forward_training_data, take_survey
from asgml.train.task import Classification, Task, score_sums
from callbacks.errors import UserError
from callbacks.stages.lr import LRSchedule
from callbacks.step.context import StepContext
from callbacks.step.divergence import refuse_divergence
from callbacks.step.groups import require_groups
from callbacks.step.ranks import means_over_ranks, sum_over_ranks
from callbacks.step.stage import find_pipeline
from suite.shell import configure_optimizer


class MultimodalModule(L.LightningModule):
    """Trains N encoders, a fusion and unimodal heads (specification A1, A2) under manual optimisation.

    The step, in order: the rhythm has decided which encoders run without a graph → features → fused and unimodal losses
    (means over the present rows of all ranks) → the methods' terms → one `manual_backward` (several, where a method
    splits it) → `optimizer.step()`, inside which the `StepPipeline` works. The logged loss is
    `L_fusion + gamma * sum_m L_m` in every step, masked or not.

    Args:
        net: the network.
        methods: the methods by name, applied in order.
        rhythm: the deciding stage of the pipeline.
        optimizer: a factory that is called with the parameter groups: one per modality (its encoder), and one named
            `fusion` (fusion and heads).
        lr_schedule: the factor on every group's learning rate, in committed steps.
        group_lr: the learning rate of single groups, in place of the optimiser's.
        gamma: the weight of the unimodal losses in the *logged* loss (a method decides what is trained on).
        may_miss: whether a modality can be missing in a sample; on several ranks this costs one host read of the global
            counts per step.
        cosine_every: the steps between two measurements of the fusion/unimodal gradient cosine at the feature; 0
            switches it off.
        seed: the seed of the methods' own randomness.
        teachers: frozen encoders, by modality, for the methods that ask for them.
        task: what is predicted; null is the classes of the network.
        accumulate: the number of parts that encoders take a batch in, for less memory; see `Forward`.

    Attributes:
        active: the modalities that take part.
        step: the newest training step.
        predictions: the predictions of the newest evaluation, by split.
        metrics: the metrics of the newest evaluation or training epoch, by split.

    Raises:
        UserError: methods that exclude each other, the rhythm or the task, or no `StepPipeline` in the trainer.
    """

    automatic_optimization: bool

    def __init__(
        self,
        net: MultimodalNet,
        methods: Mapping[str, Method],
        rhythm: Rhythm,
        optimizer: Callable[..., Optimizer],
        lr_schedule: LRSchedule,
        group_lr: dict[str, float] | None = None,
        gamma: float = 1.0,
        may_miss: bool = True,
        cosine_every: int = 10,
        seed: int = 0,
        teachers: Mapping[str, nn.Module] | None = None,
        task: Task | None = None,
        accumulate: int = 1,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.net, self.methods, self.rhythm = net, dict(methods), rhythm
        self._optimizer, self._lr_schedule = optimizer, lr_schedule
        self.group_lr, self.gamma, self.cosine_every = dict(group_lr or {}), gamma, cosine_every
        self.modalities = net.modalities
        self.task = task or Classification(net.classes)
        for name, method in self.methods.items():
            method.prepare(name, self.modalities, net.classes, seed)
        timed = rhythm.buffer is not None or rhythm.mask is not None
        may_miss = check_methods(self.methods, timed, self.task.name == "regression") or may_miss
        self.extensions = install_modules(net, self.methods, seed)
        everyone = list(self.methods.values())  # a hook that a method does not have is not called
        self._fusing = fusing(everyone)
        self._splitting = next((m for m in everyone if uses(m, "substeps")), None)
        keeps = any(method.keeps_initial for method in self.methods.values())
        self._initial = {
            m: [p.detach().cpu().clone() for p in net.encoders[m].parameters()] for m in self.modalities if keeps
        }
        self.active = active(everyone, self.modalities)
        self.trains_heads = any(method.trains_heads for method in self.methods.values())
        check_masking(None if rhythm.mask is None else rhythm.mask.masking, self.methods)
        self.fusion_loss = not any(method.replaces_fusion_loss for method in self.methods.values())
        self.forward_pass = Forward(
            net, everyone, self.active, self.trains_heads, may_miss, teachers or {}, self.task.criterion, accumulate
        )
        self.step: Step | None = None
        self._batch: Batch = {}
        self._trained_loss: Tensor | None = None
        self._epoch_counts: Tensor | None = None
        self._collected: dict[str, list[Predictions]] = {}
        self.predictions: dict[str, Predictions] = {}
        self.metrics: dict[str, dict[str, float]] = {}

    # -- optimiser
    def configure_optimizers(self) -> Any:
        groups = self.net.groups()
        groups[FUSION] += list(self.extensions.parameters())
        trained = {name: [p for p in params if p.requires_grad] for name, params in groups.items()}
        return configure_optimizer(self.trainer, trained, self.group_lr, self._optimizer, self._lr_schedule)

    def on_train_start(self) -> None:
        pipeline = find_pipeline(self.trainer)
        if pipeline is None or pipeline.ctx is None:
            raise UserError(
                "callbacks",
                "no StepPipeline",
                "a StepPipeline with rhythm and gate",
                "build the trainer with asgml.build.build(cfg, run)",
            )
        self._pipeline = pipeline
        frozen = {m for m, params in self.net.groups().items() if not any(p.requires_grad for p in params)}
        require_groups([m for m in self.active if m not in frozen], pipeline.ctx.groups, "model")
        if self._epoch_counts is None:
            self._zero_counts()
        for message in never_act(self.methods, self._planned_epochs()):
            rank_zero_warn(message)
        for teacher in self.forward_pass.teachers.values():
            teacher.to(self.device)
        modulation = self._modulation
        if modulation is not None and modulation.selection is not None:  # resumed within an epoch
            install_selection(self.trainer, modulation.selected, modulation.selection)

    @property
    def _modulation(self) -> Modulation | None:
        stage = self._pipeline.stage("modulation")
        assert stage is None or isinstance(stage, Modulation)
        return stage

    # -- forward
    def step_of(self, batch: Batch, encoded: Encoded | None = None) -> Step:
        """Run the forward pass of a batch, or from its features on (see `Forward`), in the module's own mode."""
        training = self.training
        t = self._pipeline.t if training else 0
        measure = training and bool(self.cosine_every) and self.trains_heads
        return self.forward_pass(
            batch,
            plan=self._context.plan if training else None,
            measure=measure and (t == 0 or (t + 1) % self.cosine_every == 0),
            t=t,
            epoch=self.current_epoch,
            epochs=self._epochs,
            rank=self.global_rank,
            encoded=encoded,
        )

    @property
    def _epochs(self) -> int:
        return self.trainer.max_epochs or -1

    def _planned_epochs(self) -> int:
        """Return the number of epochs that the run begins, whether epochs or steps end it; -1 where neither does."""
        per_epoch = max(1, int(self.trainer.num_training_batches))
        by_steps = -(-self.trainer.max_steps // per_epoch) if self.trainer.max_steps > 0 else -1
        return min((n for n in (self._epochs, by_steps) if n > 0), default=-1)

    # -- training
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad(set_to_none=True)
        step = self.step = self.step_of(batch)
        if self._modulation is not None:
            self._modulation.step = step
        self._batch = batch
        terms = {FUSION: step.losses[FUSION]} if self.fusion_loss else {}
        for name, method in self.methods.items():
            for term, value in method.loss(step).items():
                key = term if term in self.modalities or term == FUSION else f"{name}/{term}"
                terms[key] = terms[key] + value if key in terms else value
        # heads that no method trains learn from detached features, for the record only
        monitors = [] if self.trains_heads else [loss for m, loss in step.losses.items() if m != FUSION]
        losses = [*terms.values(), *monitors]
        if not losses:  # nobody has what this method learns from: a gradient of 0, which the gate vetoes
            losses = [0.0 * z.sum() for z in step.unimodal.values()]
        total = torch.stack(losses).sum()
        self._report(step, terms)
        self._trained_loss = total.detach()
        parts = self._splitting.substeps(step, terms) if self._splitting else {}
        if parts:
            backward_in_parts(step, parts, monitors, self._context.groups, self.manual_backward)
        else:
            self.manual_backward(total)
        self._cosines()
        optimizer.step()
        self._count(step)

    def _report(self, step: Step, terms: dict[str, Tensor]) -> None:
        """Have losses and terms read with the step's one host read."""
        named = {f"loss/{k}": v for k, v in step.losses.items()} | {f"term/{k}": v for k, v in terms.items()}
        self._context.reads.update(means_over_ranks(named))

    @property
    def _context(self) -> StepContext:
        assert self._pipeline.ctx is not None
        return self._pipeline.ctx

    def _cosines(self) -> None:
        """Have the cosine between the gradients of fusion path and head at each feature read (specification A6.2)."""
        for m, (fused, head) in self.forward_pass.taps.items():
            if fused.grad is not None and head.grad is not None:
                self._context.reads[f"cosine/{m}"] = F.cosine_similarity(
                    fused.grad.flatten().float(), head.grad.flatten().float(), dim=0, eps=1e-20
                )
        self.forward_pass.taps = {}

    def _zero_counts(self) -> None:
        self._epoch_counts = torch.zeros(2 + 2 * len(self.active), device=self.device)

    def _count(self, step: Step) -> None:
        """Add the step's scores and rows to those of the epoch, on the device."""
        assert self._epoch_counts is not None
        with torch.no_grad():
            guess = self.prediction(step) if self._fusing else step.logits
            self._epoch_counts += score_sums(self.task, step, guess, self.active, self._epoch_counts.dtype)

    def on_train_epoch_start(self) -> None:
        self._zero_counts()
        modulation = self._modulation
        if modulation is None:
            return
        surveys: dict[str, Survey] = {}

        def survey(split: Literal["train", "val"]) -> Survey:
            if split not in surveys:
                surveys[split] = take_survey(self, split)
            return surveys[split]

        newest = {f"val/{k}": v for k, v in self.metrics.get("val", {}).items()}
        metrics = {**newest, **self.metrics.get("train", {}), **modulation.train}
        modulation.begin_epoch(
            Epoch(
                self.current_epoch,
                self._epochs,
                metrics,
                survey,
                lambda m, alpha: reinitialise(self.net.encoders[m], self._initial[m], alpha, self._context.optimizer),
            )
        )
        if modulation.selection is not None:
            install_selection(self.trainer, self.current_epoch, modulation.selection)

    def on_train_epoch_end(self) -> None:
        assert self._epoch_counts is not None
        counts = sum_over_ranks(self._epoch_counts)
        values = counts.tolist()
        names = [f"train/{self.task.score}", *(f"train/{self.task.score}/{m}" for m in self.active)]
        done = {name: values[2 * i] / values[2 * i + 1] for i, name in enumerate(names) if values[2 * i + 1]}
        self.metrics["train"] = done
        self._log(done)
        if self._trained_loss is not None:  # of the last step, for callbacks that monitor; in every step it costs 1 ms
            self.log("train/loss", self._trained_loss, logger=False)

    def on_train_end(self) -> None:
        for message in self.rhythm.unmet():
            rank_zero_warn(message)

    # -- probes
    def probe_input(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return features (n, d_m) and labels (n,) of the rows of the current batch that have m (see `ProbeEMA`)."""
        assert self.step is not None
        return self._present_rows(self.step.features, self._batch["rows"], self.step.y)

    def probe_index(self) -> dict[str, Tensor]:
        """Return the rows (n,) of the training table that the rows of `probe_input` are of (see `ProbeEMA`)."""
        index, rows = self._batch["index"], self._batch["rows"]
        return {m: index if rows[m] is None else index.index_select(0, rows[m]) for m in self.active}

    def probe_encode(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Return features (n, d_m) and labels (n,) of the rows of a batch that have m (see `ProbeEMA`)."""
        features, _ = self.forward_pass.encode(batch)
        return self._present_rows({m: features[m] for m in self.active}, batch["rows"], batch["y"])

    @staticmethod
    def _present_rows(
        features: dict[str, Tensor], rows: Mapping[str, Tensor | None], y: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]]:
        out = {}
        for m, f in features.items():
            here = rows[m]  # positions and not a mask, whose length the host would have to wait for
            out[m] = (f, y) if here is None else (f.index_select(0, here), y.index_select(0, here))
        return out

    # -- measurements
    def curvature_loss(self, batch: Batch, rows: int, group: str) -> Tensor:
        """Return the loss of a batch's first rows with a graph to a group's weights (see `StabilityGuard`)."""
        return loss_of_group(self, first_rows(batch, rows), group)

    def share_loss(self, batch: Batch, rows: int) -> Tensor:
        """Return the fused loss of a batch's first rows with a graph to every group (see `BranchShare`)."""
        return fused_loss(self, first_rows(batch, rows))

    def forward_training_data(self) -> None:
        """Run the forward pass over the training data, always the same batches (see `callbacks.SWAWeights`)."""
        forward_training_data(self)

    # -- evaluation
    def prediction(self, step: Step) -> Tensor:
        """Return the prediction (B, C): the last method's that has its own, else that of the fused logits."""
        return fused_prediction(step, self._fusing, self.task)

    def predict_batch(self, batch: Batch) -> Predictions:
        """Return the predictions of a batch, in the module's own mode."""
        return predictions_of(self.step_of(batch), batch["index"], self._fusing, self.task)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._collected.setdefault("val", []).append(self.predict_batch(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._collected.setdefault("test", []).append(self.predict_batch(batch))

    def _finish_evaluation(self, split: str) -> None:
        parts = self._collected.pop(split, [])
        predictions = Predictions.gather(parts)
        self.predictions[split] = predictions
        self.metrics[split] = self.task.evaluate(predictions, self.gamma)
        refuse_divergence(self.trainer, split, self._pipeline.t, self.metrics[split])
        named = {f"{split}/{k}": v for k, v in self.metrics[split].items()}
        for name, value in named.items():  # for callbacks that monitor
            self.log(name, value, logger=False, prog_bar=name == f"{split}/{self.task.score}", sync_dist=False)
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._log(named)

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self._finish_evaluation("val")
        else:
            self._collected.clear()

    def on_test_epoch_end(self) -> None:
        self._finish_evaluation("test")

    def _log(self, values: dict[str, float]) -> None:
        """Pass values to the loggers at the number of committed steps."""
        for logger in self.trainer.loggers:
            logger.log_metrics({**values, "epoch": self.current_epoch}, step=self._pipeline.t)

    # -- state
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        counts = None if self._epoch_counts is None else sum_over_ranks(self._epoch_counts)
        checkpoint["asgml"] = {
            "epoch_counts": None if counts is None else counts.cpu().clone(),
            "val": dict(self.metrics.get("val", {})),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["asgml"]
        if saved["epoch_counts"] is not None:  # of all ranks together
            share = 1.0 if self.trainer.is_global_zero else 0.0
            self._epoch_counts = saved["epoch_counts"].to(self.device) * share
        if saved["val"]:
            self.metrics["val"] = dict(saved["val"])

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return to_device(batch, device, wide=next(self.net.parameters()).dtype == torch.float64)
