"""FeedbackModule: the Lightning shell around a `FeedbackModel`. One backward, one optimiser, one step, two stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer

from asgml.feedback.losses import image_loss, text_loss
from asgml.feedback.model.system import FeedbackModel
from asgml.feedback.train.evaluated import Batch, EvaluatedModule
from asgml.feedback.train.stage_clock import StageClock
from asgml.feedback.train.stages import Plan
from callbacks.errors import UserError
from callbacks.stages.lr import LRSchedule
from callbacks.step.ranks import means_over_ranks
from callbacks.step.stage import find_pipeline
from suite.shell import configure_optimizer


class FeedbackModule(EvaluatedModule):
    """Trains the adapters of a frozen CLIP in two stages, under manual optimisation.

    Stage `text`: anchors of the adapted text tower against the frozen image tower's patches. Stage `image`: the whole
    model, the text adapters held; its loss is the mean over the supervised loops. Validation and test are always those
    of the whole model as it stands, so that `best.ckpt` compares like with like.

    The CLIP is in no checkpoint; its fingerprint is, and another CLIP's is refused.

    Args:
        model: the model.
        clock: the stage of the pipeline that knows the stage of training.
        optimizer: the factory that is called with the parameter groups.
        supervised: whether the loss is of all loops (their mean) or of the last one.
        surgery: the block from which on stage `text` reads values by values; None is the tower as it is.
        apart: the weight of anchors that look alike in stage `text`.
        blur: the side of the Gaussian on maps, in patches.
        sigma: its standard deviation, in patches.
        detection: the share of a picture's own probability in its score.
    """

    automatic_optimization: bool

    def __init__(
        self,
        model: FeedbackModel,
        clock: StageClock,
        optimizer: Callable[..., Optimizer],
        supervised: Literal["all", "last"] = "all",
        surgery: int | None = None,
        apart: float = 0.1,
        blur: int = 7,
        sigma: float = 1.0,
        detection: float = 0.5,
    ):
        super().__init__(model, blur, sigma, detection)
        self.automatic_optimization = False
        self.clock, self._optimizer = clock, optimizer
        self.supervised, self.surgery, self.apart = supervised, surgery, apart
        for name, params in model.groups().items():
            if name not in self.trained:
                for p in params:
                    p.requires_grad_(False)

    @property
    def plan(self) -> Plan:
        """The stages over epochs."""
        return self.clock.plan

    @property
    def trained(self) -> set[str]:
        """The groups that some stage trains and some loop uses: in one loop nobody reads the image."""
        unused = {0: {"image_reads", "text_reads"}, 1: {"text_reads"}}.get(self.model.loops, set())
        return {g for s in self.plan.stages for g in s.trains} - unused

    # -- optimiser
    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters that are trained, by group."""
        return {name: params for name, params in self.model.groups().items() if name in self.trained}

    def configure_optimizers(self) -> Any:
        rates = {group: rate for group, rate in self.plan.rates.items() if group in self.trained}
        return configure_optimizer(self.trainer, self.groups(), rates, self._optimizer, LRSchedule("constant"))

    def learning_rates(self, groups: Sequence[str]) -> dict[str, float]:
        """Return learning rates by their keys: of the stages that train these groups, or of the present one."""
        stages = [s for s in self.plan.stages if set(groups) & set(s.trains)]
        present = self.clock.present or self.plan.stages[-1]
        return {f"stages.{s.name}.lr": s.lr for s in stages or [present]}

    # -- life
    def on_fit_start(self) -> None:
        self.bring_clip()

    def on_train_start(self) -> None:
        pipeline = find_pipeline(self.trainer)
        if pipeline is None or pipeline.ctx is None or pipeline.stage(self.clock.name) is not self.clock:
            remedy = "build the trainer with asgml.feedback.build.build(cfg, run)"
            raise UserError("callbacks", "no StepPipeline with this module's StageClock", "both in one", remedy)
        self._pipeline = pipeline

    # -- training
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad(set_to_none=True)
        stage = self.clock.present
        assert stage is not None
        assert self._pipeline.ctx is not None
        with self._only(stage.trains):
            loss = self.text_loss(batch) if stage.name == "text" else self.image_loss(batch)
            self.manual_backward(loss)
        self._pipeline.ctx.reads.update(means_over_ranks({f"loss/{stage.name}": loss}))
        self.log("train/loss", loss.detach(), logger=False)
        optimizer.step()

    @contextmanager
    def _only(self, groups: Sequence[str]) -> Iterator[None]:
        """Build graphs to the weights of these groups alone."""
        others = [p for name, params in self.groups().items() if name not in groups for p in params]
        for p in others:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in others:
                p.requires_grad_(True)

    def text_loss(self, batch: Batch) -> Tensor:
        """Return the loss of stage `text` (0-d)."""
        anchors = self.model.text(batch["class"]).anchors
        levels = self.model.frozen_maps(batch["image"], anchors, self.surgery)
        return text_loss(levels, batch["mask"], anchors, self.apart)

    def image_loss(self, batch: Batch) -> Tensor:
        """Return the loss of stage `image` (0-d)."""
        loops = self.model(batch["image"], batch["class"])
        chosen = loops if self.supervised == "all" else loops[-1:]
        losses = [image_loss(x.patches, x.logits, batch["mask"], batch["label"]) for x in chosen]
        return torch.stack(losses).mean()

    def share_loss(self, batch: Batch, rows: int) -> Tensor:
        """Return the loss of stage `image` of a batch's first rows, with a graph to every group (see `BranchShare`)."""
        return self.image_loss({name: value[:rows] for name, value in batch.items()})

    # -- evaluation
    def _finish(self, split: str) -> None:
        super()._finish(split)
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            named = {f"{split}/{k}": v for k, v in self.metrics[split].items()}
            for logger in self.trainer.loggers:
                logger.log_metrics({**named, "epoch": self.current_epoch}, step=self._pipeline.t)

    def on_validation_epoch_start(self) -> None:
        self._begin()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    # -- state
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["feedback"] = {
            "clip": self.fingerprint,
            "stage": self.plan.stage(self.current_epoch).name,
            "val": dict(self.metrics.get("val", {})),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["feedback"]
        self.model.clip.require(saved["clip"], "checkpoint")
        if saved["val"]:
            self.metrics["val"] = dict(saved["val"])
