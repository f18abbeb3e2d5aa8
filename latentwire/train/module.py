"""WireModule: the Lightning shell around wire, frozen models and objectives. One backward, one optimiser, one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from callbacks.errors import UserError
from callbacks.run.collapse import CollapseSample
from callbacks.stages.lr import LRSchedule
from callbacks.step.divergence import refuse_divergence
from callbacks.step.ranks import means_over_ranks
from callbacks.step.stage import find_pipeline
from latentwire.codec.base import Coded
from latentwire.encoders.slots import LatentLayout
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.lora import dropping
from latentwire.lm.results import AnswerLogprobs
from latentwire.lm.sharding import shard
from latentwire.objectives.base import Objective, ObjectiveOutput, RowKind, Seen
from latentwire.objectives.teacher import Teacher
from latentwire.train import batches, validation
from latentwire.train import parts as pieces
from latentwire.train.batches import Batch
from latentwire.train.curriculum import KINDS, Period, slots_for
from latentwire.train.curriculum_stage import TERM, CurriculumStage
from latentwire.train.nested import Nested
from latentwire.train.noise import Noise
from latentwire.train.objective_norms import ObjectiveNorms
from latentwire.train.parts import Cut, Part
from latentwire.train.seeing import both_states, compared, teach, text_embeddings, text_scale
from latentwire.train.tally import Tally
from latentwire.wire import LatentWire
from suite.shell import configure_optimizer


class WireModule(L.LightningModule):
    """Trains a wire under manual optimisation; the language models are read, never trained and never saved.

    The step, in order: the curriculum has set the period (how many slots) and the weights → texts are encoded once →
    for every language model its prefix, expanded over the questions of each text, and one forward for the rows of all
    objectives (two where padding would cost more, see `batches.forwards`) → objectives, means over models → one
    `manual_backward` → `optimizer.step()`, inside which the `StepPipeline` works. Losses are float32. With `accumulate`
    the rows go through each model in parts, a backward pass after each (see `latentwire.train.parts`), and the step is
    that of the undivided batch.

    Under DDP every rank has its share of the global batch, and losses and gradients are those of one rank with all of
    it, whatever the shares. Validation is gathered: every rank has the numbers of all.

    Validation is always at the run's own ratio and of whole messages, whatever the period and the prefix that is drawn,
    so that `best.ckpt` compares like with like.

    Limits: rows of a text that is longer than the encoder takes are refused by the encoder. Wrong latents
    (`MismatchHinge`) are those of a text of the same rank, and dropout draws the same on all ranks.

    Args:
        wire: the wire that is trained.
        lms: language models by the names that the wire knows them by.
        objectives: objectives by name.
        curriculum: the deciding stage of the pipeline.
        optimizer: factory that is called with the parameter groups.
        lr_schedule: factor on every group's learning rate, in committed steps.
        group_lr: learning rate by group (`adapter:<lm>`) or kind (`adapter`), in place of the optimiser's. A fresh
            projector wants an order of magnitude more than a pretrained encoder.
        tokens: mean number of tokens of a text, from which a period's ratio makes slots.
        teachers: cached teacher by model; a model without one is asked in every step.
        top_k: number of tokens of a teacher's distribution that are kept apart.
        max_new_tokens: longest answer in validation.
        texts: training texts that injectors are measured on, for periods that fit them anew.
        accumulate: number of parts that the rows of a batch are read in.
        shards: whether the layers of the language models are sharded over the ranks.
        nested: law of the number of slots that a step reads; None: all.
        seed: seed of its draws.
        noise: what is read otherwise than in evaluation; None: nothing.
    """

    automatic_optimization: bool

    def __init__(
        self,
        wire: LatentWire,
        lms: Mapping[str, FrozenLM],
        objectives: Mapping[str, Objective],
        curriculum: CurriculumStage,
        optimizer: Callable[..., Optimizer],
        lr_schedule: LRSchedule,
        group_lr: Mapping[str, float],
        tokens: float,
        teachers: Mapping[str, Teacher] | None = None,
        top_k: int = 32,
        max_new_tokens: int = 8,
        texts: Sequence[str] = (),
        accumulate: int = 1,
        shards: bool = False,
        nested: Nested | None = None,
        seed: int = 0,
        noise: Noise | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.wire, self.curriculum = wire, curriculum
        self.objectives = torch.nn.ModuleDict(objectives)
        self.lms = dict(lms)  # FrozenLM is no nn.Module: in no parameters() and no state_dict()
        self._optimizer, self._lr_schedule = optimizer, lr_schedule
        self.group_lr, self.tokens = dict(group_lr), tokens
        self.teachers, self.top_k, self.max_new_tokens = dict(teachers or {}), top_k, max_new_tokens
        self.texts, self.accumulate, self.shards = list(texts), accumulate, shards
        self.nested, self.seed, self.noise = nested, seed, noise
        self.metrics: dict[str, dict[str, float]] = {}
        self.sample: CollapseSample | None = None
        self.validated: validation.Scores | None = None  # all that the last validation saw
        self._scores: validation.Scores | None = None
        self._said: dict[str, Tensor] = {}  # by the encoder, of the texts of the step

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprints of the language models as they were first seen; they never move."""
        return {name: lm.fingerprint() for name, lm in self.lms.items()}

    # -- optimiser
    def groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """Return the wire's groups and `head:<objective>` for objectives with trained parameters of their own."""
        heads = {f"head:{n}": [p for p in o.parameters() if p.requires_grad] for n, o in self.objectives.items()}
        return {**self.wire.groups(), **{name: params for name, params in heads.items() if params}}

    def configure_optimizers(self) -> Any:
        return configure_optimizer(
            self.trainer, self.groups(), self.group_lr, self._optimizer, self._lr_schedule, absent=KINDS
        )

    def learning_rates(self, groups: Sequence[str]) -> dict[str, float]:
        """Return learning rates by their keys: those of these groups, or of all that are trained."""
        rates: dict[str, float] = {}
        for name in groups or self.groups():
            own = [key for key in (name, name.partition(":")[0]) if key in self.group_lr]
            key = f"group_lr.{own[0]}" if own else "optimizer.lr"
            rates[key] = self.group_lr[own[0]] if own else float(self.trainer.optimizers[0].defaults["lr"])
        return rates

    # -- life
    def on_fit_start(self) -> None:
        self.place()

    def on_validation_start(self) -> None:
        self.place()

    def place(self) -> None:
        """Move the language models to the module's device, but those with a place of their own; shard their layers."""
        for lm in self.lms.values():
            lm.to(self.device)
            if self.shards:
                shard(lm)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batches.on_device(batch, device)

    def on_train_start(self) -> None:
        pipeline = find_pipeline(self.trainer)
        if pipeline is None or pipeline.stage("curriculum") is not self.curriculum or pipeline.ctx is None:
            raise UserError(
                "callbacks",
                "no StepPipeline with this module's curriculum",
                "curriculum and gate in one StepPipeline",
                "build the trainer with latentwire.build.build(cfg, run)",
            )
        if pipeline.stage("gate") is None:
            raise UserError(
                "callbacks.gate",
                "null",
                "the gate, whose host read feeds the curriculum",
                "leave out callbacks.gate=null",
            )
        self._pipeline = pipeline
        self.curriculum.entered = self._entered

    def _entered(self, period: Period) -> None:
        self.wire.codec.take(period.codes)
        if period.refit:
            self.wire.refit(self.texts, self.layout())

    # -- forward
    def layout(self) -> LatentLayout:
        """Return the slots of the present period."""
        ratio = self.curriculum.period.ratio
        own = self.wire.layout
        return own if ratio is None else own.with_slots(slots_for(self.tokens, ratio))

    def read_layout(self) -> LatentLayout:
        """Return the slots that the models read in this step: those of the period, or as many as are drawn."""
        sent = self.layout()
        if self.nested is None:
            return sent
        return sent.prefix(self.nested.draw(sent.slots, self.seed, self._pipeline.t), "wire.nested")

    def objective_outputs(
        self, batch: Batch, active: Mapping[str, Objective]
    ) -> tuple[Coded, dict[str, dict[str, ObjectiveOutput]]]:
        """Return what the codec sent, and what the active objectives say of every model: `[model][objective]`."""
        coded, prefixes = self._send(batch, active)
        whole = Part(batch.asked, batch.rows)
        return coded, {name: self._say(batch, whole, coded.values, prefixes, name, active) for name in self.lms}

    def _send(self, batch: Batch, active: Mapping[str, Objective]) -> tuple[Coded, dict[str, Prefix]]:
        """Return what the models read of what the codec sent, and the prefixes, where an objective asks for rows."""
        self.wire.codec.take(self.curriculum.period.codes)
        read = self.read_layout()
        coded = self.wire.latents(batch.tokens, read if read.apart else self.layout()).first(read.slots)
        if self.noise is not None:
            coded = self.noise.latents(coded, batch, self._pipeline.t)
        self._said = {name: x[: batch.messages] for name, x in self.wire.encoder.said().items()}
        if not any(o.needs.kinds for o in active.values()):
            return coded, {}
        found = {name: self.wire.prefix(coded.values, name, read) for name in self.lms}
        if self.noise is not None:
            found = self.noise.prefixes(found, self.wire.injectors, batch, read, self._pipeline.t)
        return coded, found

    def _say(
        self,
        batch: Batch,
        part: Part,
        values: Tensor,
        prefixes: Mapping[str, Prefix],
        name: str,
        active: Mapping[str, Objective],
    ) -> dict[str, ObjectiveOutput]:
        """Return what objectives say of one model's part of a batch."""
        layout, lm = self.read_layout(), self.lms[name]
        wanted: set[RowKind] = {kind for o in active.values() for kind in o.needs.kinds}
        rows: dict[RowKind, AnswerLogprobs] = {}
        if wanted:
            prefix, mine = prefixes[name], part.rows[name]
            if part.rows is not batch.rows:
                prefix, mine = pieces.narrowed(prefix, mine)
            instead = None if self.noise is None else self.noise.instead(name, lm, batch, part, self._pipeline.t)
            rows = batches.read(lm, prefix, mine, wanted, instead, compared(active, name))
        taught = teach(lm, self.teachers.get(name), self.top_k, batch, part, active, name)
        latents, injector = layout.read(values, name)[: batch.messages], self.wire.injectors[name]
        seen = Seen(
            rows,
            latents,
            partial(text_embeddings, lm, batch, name, self.device),
            text_scale(lm) if name in batch.context else 1.0,
            taught.tokens,
            partial(self.wire.adapted, latents, name),
            layout.counts(name),
            partial(both_states, injector, latents, batch, name, layout.counts(name)),
            lm.embed,
            injector.adapter.penalty,
            self._said,
            taught.states,
        )
        return {key: o(seen, name) for key, o in active.items() if o.mean_over in rows or not o.needs.kinds}

    # -- training
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        with dropping(lm for name, lm in self.lms.items() if f"lora.{name}" not in self.wire.frozen):
            self._step(batch)

    def _step(self, batch: Batch) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad(set_to_none=True)
        if self.curriculum.period.batch_size is not None:
            own = pieces.share_of(self.curriculum.period.batch_size, self.global_rank, self.trainer.world_size)
            batch = batches.first(batch, own)
        weights = self.curriculum.weights
        active: dict[str, Any] = {name: o for name, o in self.objectives.items() if weights[name] > 0}
        if not active:
            raise UserError(
                "objectives",
                f"all weights are 0 at step {self._pipeline.t}",
                "something to learn in every step",
                "set objectives.<name>.weight.start=0, or objectives.<name>.weight.closed=0.1 of a gate",
            )
        share = pieces.Weights(batch, len(batch.tokens.ids), self.device)
        coded, prefixes = self._send(batch, active)
        tally = Tally(list(self.lms), active, weights, self.device)
        terms: list[Tensor] = []
        if self.accumulate > 1:
            terms = self._in_parts(batch, coded.values.detach(), pieces.Cut(prefixes), active, tally, share)
            active = {key: o for key, o in active.items() if not o.needs.kinds}
        whole = Part(batch.asked, batch.rows)
        found = {name: self._say(batch, whole, coded.values, prefixes, name, active) for name in self.lms}
        terms += tally.take(found, share, pieces.sizes(batch.rows, batch))
        if coded.loss.requires_grad:
            terms.append(tally.codec(coded.loss.float() * share.texts))
        norms = self._pipeline.stage("objective_norms")
        if isinstance(norms, ObjectiveNorms) and norms.due(self._pipeline.t):
            tally.reads |= norms.measure(tally.terms, self.groups(), self.accumulate)
        # without a row on this rank its gradient is 0 and not None, as the others wait for one
        self.manual_backward(torch.stack(terms).sum() if terms else coded.values.sum() * 0.0)
        reads = means_over_ranks(tally.reads)
        assert self._pipeline.ctx is not None
        self._pipeline.ctx.reads.update(reads)
        if self.nested is not None:
            self._pipeline.ctx.metrics["train/slots"] = float(self.read_layout().slots)
        if self.noise is not None and self.noise.text is not None:
            self._pipeline.ctx.metrics["train/text_share"] = self.noise.text.share(self._pipeline.t)
        seen = torch.stack([value for key, value in reads.items() if key.startswith(TERM)]).sum()
        self.log("train/loss", seen, prog_bar=True, logger=False)
        optimizer.step()

    def _in_parts(
        self,
        batch: Batch,
        values: Tensor,
        cut: Cut,
        active: Mapping[str, Objective],
        tally: Tally,
        share: pieces.Weights,
    ) -> list[Tensor]:
        """Read rows part by part, each with a backward pass of its own, and return what they have left at the cut."""
        of_rows = {key: o for key, o in active.items() if o.needs.kinds}
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        for part in pieces.parts(batch, self.accumulate) if of_rows else ():
            for name in self.lms:
                found = self._say(batch, part, values, cut.prefixes, name, of_rows)
                terms = tally.take({name: found}, share, pieces.sizes(part.rows, batch))
                if terms:
                    # not `manual_backward`: for callbacks a step has one backward pass, the last
                    with pieces.unsynchronised(self.trainer.strategy):
                        (scale * torch.stack(terms).sum()).backward()
        left = cut.joined(scale)
        return [] if left is None else [left]

    # -- evaluation
    def on_validation_epoch_start(self) -> None:
        self._scores = validation.Scores()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert self._scores is not None
        values = self.wire.latents(batch.tokens).values
        prefixes = {name: self.wire.prefix(values, name) for name in self.lms}
        validation.score(self._scores, batch, prefixes, self.lms, self.max_new_tokens)
        self._scores.sent(batch, values)

    def on_validation_epoch_end(self) -> None:
        scores, self._scores = self._scores, None
        if self.trainer.sanity_checking or scores is None:
            return
        scores = scores.over_ranks()
        self.metrics["val"], self.validated = scores.metrics(), scores
        pipeline = find_pipeline(self.trainer)  # none where a wire is only validated
        refuse_divergence(self.trainer, "val", 0 if pipeline is None else pipeline.t, self.metrics["val"])
        name = next(iter(scores.outputs))
        self.sample = CollapseSample(
            outputs=scores.outputs[name],
            references=scores.references[name],
            margin=torch.tensor(scores.margin[name]),
            entropy=torch.tensor(scores.entropy[name]),
            top5=torch.tensor(scores.top5[name]),
            latents=torch.cat(scores.latents),
        )
        named = {f"val/{k}": v for k, v in self.metrics["val"].items()}
        for key, value in named.items():  # for callbacks that monitor
            self.log(key, value, logger=False, prog_bar=key == "val/f1")
        if self.trainer.state.fn == TrainerFn.FITTING:
            for key, value in named.items():
                self.curriculum.record(key, value)
            gains = {f"gain/{lm}": gain for lm, gain in self.wire.gains().items()}
            for logger in self.trainer.loggers:
                logger.log_metrics({**named, **gains, "epoch": self.current_epoch}, step=self._pipeline.t)

    # -- state
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["latentwire"] = {
            "val": dict(self.metrics.get("val", {})),
            "models": self.fingerprints,
            "slots": self.wire.slots,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["latentwire"]
        for name, lm in self.lms.items():
            if saved["models"][name] != self.fingerprints[name]:
                lm.verify(saved["models"][name])
        if saved["val"]:
            self.metrics["val"] = dict(saved["val"])
