"""An adversary who is trained to read private slots that are another reader's.

What a reader makes of another's slots as they are, or through an affine map, is a lower bound on what they say to it.
The adversary has what the owner had: an adapter and an injector of the reader, of the wire's own configuration and
started anew on those slots (least squares from training texts, where the injector starts so), then trained on answers.
Encoder, codec and reader are frozen, the moment that is kept is chosen on validation. Its null is the same training,
start included, on slots of *other* passages: it learns how answers are distributed and how to be a prefix, and nothing
of the text. What leaks is the adversary's swap gap beyond that of its null, on the same questions and messages,

    leak = [NLL(adversary, other) - NLL(adversary, right)] - [NLL(null, other) - NLL(null, right)],

in nats per answer token, under this reader, this configuration and this many steps; more may find more. The two NLL
themselves are not compared: a null whose start had nothing to fit learns the answers' frequencies more slowly, and a
difference of theirs would call that a leak.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.stages.lr import LRSchedule
from latentwire.baselines.training import Amount, TrainingBudget, learn_answers
from latentwire.data.base import Passage, Question
from latentwire.injectors.base import Injector
from latentwire.lm.layout import Prefix
from latentwire.restore import Loaded
from latentwire.rivals import training_budget
from latentwire.scoring.metrics import Row
from suite.config.instantiate import build_node
from suite.statistics import Bootstrap, bootstrap_interval

STEPS = 60  # a minute for each reader of a pocket wire, null included
VALIDATIONS = 4
WARMUP = 10  # steps; Adam's first ones at the full rate would throw away where the injector starts


def train(loaded: Loaded, reader: str, show: Callable[[Tensor], Tensor], counts: Sequence[int], steps: int,
          paired: bool = True) -> Injector:  # fmt: skip
    """Train an adapter and an injector of a reader on what it is given of messages; return the injector.

    Args:
        loaded: the run, whose wire stays as it is.
        reader: the reader.
        show: values (B, slots, d_z) to the latents (B, M, d_z) that it is given.
        counts: number of slots of each slice in these.
        steps: number of steps.
        paired: whether a passage's answers are learned from its own message; else from that of another passage.

    Raises:
        UserError: a single passage to validate on, or none.
    """
    cfg, wire, lm = loaded.cfg, loaded.wire, loaded.inputs.lms[reader]

    def given(texts: Sequence[str]) -> Tensor:
        values = wire.encode(texts)
        return show(values if paired else values.roll(1, 0))

    texts, budget = loaded.inputs.texts, budget_of(loaded, steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(cfg.seed))
        made = build_node(cfg.injector)(d_z=int(cfg.wire.d_z), lm=lm, texts=texts, adapter=build_node(cfg.adapter))
    injector: Injector = made.to(wire.device).eval()  # without dropout: validation says when it has learned enough
    injector.calibrate(given(texts), texts, counts)

    def read(passages: Sequence[Passage], _: Sequence[Question]) -> Prefix:
        found: Prefix = injector(given([p.text for p in passages]))
        return found

    with torch.enable_grad():
        learn_answers(lm, budget, budget.amount, read, injector, rate_of(loaded, reader))
    return injector.requires_grad_(False)


def budget_of(loaded: Loaded, steps: int) -> TrainingBudget:
    """Return what the adversary learns from: the run's stream, batches and validation, for so many steps."""
    n = loaded.cfg.loader
    contexts, questions = max(2, int(n.batch_size)), int(n.questions)
    amount = Amount(steps, contexts, questions, steps * contexts * questions)
    run = training_budget(loaded.cfg, loaded.inputs.corpus, amount=amount)
    for split, there in (("corpus.train", len(run.train)), ("loader.eval_passages", len(run.val))):
        if there < 2:
            expected = "2 passages or more: the null reads the message of another one"
            raise UserError(split, str(there), expected, "add --adversary 0, or give a run with more passages")
    schedule = LRSchedule("cosine", warmup_steps=min(WARMUP, steps // 4))
    return replace(run, steps_per_epoch=max(1, -(-steps // VALIDATIONS)), schedule=schedule, metric="nll")


def rate_of(loaded: Loaded, reader: str) -> float:
    """Return the learning rate that the run has for the reader's injector."""
    own = loaded.cfg.group_lr
    found = (own[key] for key in (f"injector:{reader}", "injector") if key in own)
    return float(next(found, loaded.cfg.optimizer.lr))


def leak(right: Sequence[Row], null: Sequence[Row], n_boot: int, seed: int) -> Bootstrap:
    """Return the leak in nats per answer token, with a 95 % interval over groups of passages.

    Args:
        right: rows of the adversary, one per question, with their `swap_gap`.
        null: rows of its null, of the same questions in the same order.
        n_boot: number of bootstrap draws.
        seed: their seed.
    """
    if [r["question"] for r in right] != [r["question"] for r in null]:
        raise ValueError("rows of different questions")
    gaps = [own["swap_gap"] - other["swap_gap"] for own, other in zip(right, null, strict=True)]
    return bootstrap_interval(gaps, [r["group"] for r in right], n_boot, seed)
