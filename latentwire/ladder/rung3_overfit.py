"""Rung 3: every trained parameter moves, and a few examples are learnt by heart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import lightning as L
import torch

from callbacks.run.audit import AuditFailure, TrainableAudit
from callbacks.stages.gate import TooManySkips
from callbacks.stages.lr import LRStep
from callbacks.step.divergence import Diverged
from callbacks.step.pipeline import StepPipeline
from latentwire.data.base import Passage, spread
from latentwire.ladder import options
from latentwire.ladder.bare_trainer import Gentle, module_of, trainer_of
from latentwire.ladder.ranks import slot_rank
from latentwire.ladder.subject import Subject, unregistered
from latentwire.ladder.verdict import Check, Verdict, judged
from latentwire.objectives.base import Needs
from latentwire.train import batches, validation
from latentwire.train.batches import Batch, Contexts
from latentwire.train.curriculum import Period
from latentwire.train.module import WireModule
from suite.config.instantiate import build_node
from suite.loader import EpochBatches, ResumableLoader

AUDIT_STEPS = 10
SHOWN = 4
ALIKE = 0.01  # share of the largest rank below which the slots of a message are one and the same
LISTED = (
    "list it once in LatentWire.groups() (group_lr.<kind> then sets its learning rate), or let the loss reach it; what "
    "is not used must not be trainable"
)


def overfit(subject: Subject, o: options.OverfitOptions) -> Verdict:
    """Train the subject's wire on a few examples until they are known.

    Optimiser, clipping, gate and audit are the configured ones, as in `latentwire.run`, but it trains on answers alone
    (`answer_ce`), without dropout and gently: what is judged is whether the parts can learn, not the learning rates for
    a corpus.
    """
    passages = examples(subject, o.examples)
    module = module_of(subject, o.steps, Gentle(o.steps, o.lr_share))
    idle = untrained(subject, module)
    needs = Needs(whole_prompt=subject.whole)
    most = max(len(p.questions) for p in passages)
    seed, size = int(subject.cfg.seed), min(int(subject.cfg.loader.batch_size), len(passages))
    data = Contexts(passages, subject.wire.encoder, subject.lms, most, needs, seed)
    loader = ResumableLoader(data, EpochBatches(len(data), size, seed, train=True), 0)
    known = ByHeart(data.__getitems__([(i, 0) for i in range(len(passages))]), o, subject)
    faults = unregistered(subject) or _train(subject, module, loader, known, o.steps)
    checks = [
        Check("trainable parameters that are not trained", len(faults), high=0, remedy=LISTED,
              found=f"not trained: {'; '.join(faults[:SHOWN])}"),
        Check("groups that no stage trains", len(idle), high=0, found=f"no stage trains {', '.join(idle)}",
              remedy="add them to stages.<n>.trains (curriculum=single trains everything)"),
    ]  # fmt: skip
    if not faults:
        for name, right in known.right.items():
            checks.append(
                Check(subject.label(f"{subject.score} on the examples", name), right, low=o.em,
                      found=f"{name} answers {right:.3f} of {o.examples} training questions ({subject.score}) after "
                      f"{known.step} steps (NLL {known.nll[name]:.3g})",
                      remedy=_remedy(subject, passages, known.step))
            )  # fmt: skip
        checks += [Check(subject.label("NLL", n), v) for n, v in known.nll.items()]
        checks.append(Check("steps", known.step))
    return judged(3, checks)


def examples(subject: Subject, n: int) -> list[Passage]:
    """Return training passages with n questions in all.

    Of each there are as many as a training batch asks, spread over the passage, and fewer of the last.
    """
    each = int(subject.cfg.loader.questions)
    found: list[Passage] = []
    left = n
    for passage in subject.passages("train", n):
        kept = [passage.questions[i] for i in spread(len(passage.questions), each)[:left]]
        found.append(replace(passage, questions=tuple(kept)))
        left -= len(kept)
        if left == 0:
            break
    return found


def untrained(subject: Subject, module: WireModule) -> list[str]:
    """Return groups that no period of the configured curriculum moves."""
    periods: list[Period] = [build_node(node) for node in subject.cfg.stages]
    return [group for group in module.groups() if not any(period.moves(group) for period in periods)]


class ByHeart(L.Callback):
    """Stops training once all examples are answered, looking every few steps; keeps what it saw last, by model."""

    def __init__(self, batch: Batch, o: options.OverfitOptions, subject: Subject):
        self.batch, self.every, self.enough, self.subject = batch, o.every, o.em, subject
        self.right: dict[str, float] = {}
        self.nll: dict[str, float] = {}
        self.step = 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.step += 1
        if self.step % self.every and self.step != trainer.max_steps:
            return
        pl_module.eval()
        self.look(pl_module.wire)
        pl_module.train()
        if min(self.right.values()) >= self.enough and self.step >= AUDIT_STEPS:  # the audit has spoken by then
            trainer.should_stop = True

    @torch.no_grad()
    def look(self, wire: Any) -> None:
        """Let all examples be answered."""
        scores, lms = validation.Scores(), self.subject.lms
        values = wire.latents(batches.on_device(self.batch, wire.device).tokens).values
        prefixes = {name: wire.prefix(values, name) for name in lms}
        validation.score(scores, self.batch, prefixes, lms, int(self.subject.cfg.evaluation.max_new_tokens))
        right = scores.em if self.subject.score == "EM" else scores.top1
        for name in lms:
            self.right[name], self.nll[name] = (sum(x[name]) / len(x[name]) for x in (right, scores.nll))


def _train(subject: Subject, module: WireModule, loader: ResumableLoader, known: ByHeart, steps: int) -> list[str]:
    """Train; return what the audit or the gate found at fault, which ends it."""
    callbacks = subject.cfg.callbacks
    nodes = [callbacks[name] for name in ("clip", "gate") if callbacks.get(name) is not None]
    stages = [module.curriculum, LRStep(), *(build_node(node) for node in nodes)]
    pipeline = StepPipeline.ordered(stages, announce=False)
    audit = TrainableAudit(min(AUDIT_STEPS, steps))
    try:
        with _without_dropout(module), trainer_of(subject, steps, [pipeline, audit, known]) as trainer:
            trainer.fit(module, loader)
    except AuditFailure as error:
        return [error.found]
    except TooManySkips as error:
        return [f"no step was taken: {error.found}"]
    except Diverged as error:
        return [error.found]
    return []


@contextmanager
def _without_dropout(module: WireModule) -> Iterator[None]:
    layers = [(m, m.p) for m in module.modules() if isinstance(m, torch.nn.Dropout)]
    try:
        for layer, _ in layers:
            layer.p = 0.0
        yield
    finally:
        for layer, p in layers:
            layer.p = p


def _remedy(subject: Subject, passages: list[Passage], steps: int) -> str:
    """Say what to do about examples that were not learnt; slots that are all alike come first."""
    slots = subject.wire.slots
    values = subject.wire.encode([subject.message(p, p.questions[0]) for p in passages])
    if slots > 1 and slot_rank(values) < ALIKE * (slots - 1):
        return f"the {slots} slots of a message are one and the same vector: choose another encoder.pooling"
    return (
        f"encoder, adapter and injector cannot learn {len(passages)} texts in {steps} steps: set group_lr.* three "
        "times lower (an NLL that stands still), then three times higher, lower wire.ratio, use injector=deep_prefix, "
        "or give more ladder.overfit.steps"
    )
