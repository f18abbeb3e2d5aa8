"""How rivals learn: on answers, with the reader frozen, from the stream that the wire is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from callbacks.stages.lr import LRSchedule
from latentwire.data.base import Passage, Question
from latentwire.data.squad_metrics import best, f1
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.train import batches
from latentwire.train.batches import Renderer, Rows
from latentwire.train.stream import Asked, Stream

MAX_NORM = 1.0  # of a gradient, as the wire's own step clips it

Read = Callable[[Sequence[Passage], Sequence[Question]], Prefix]  # one question per passage


@dataclass(frozen=True)
class Amount:
    """Counts what a training reads.

    Attributes:
        steps: number of steps of the optimiser.
        contexts: number of contexts in a step.
        questions: number of questions about each; all where a passage has fewer.
        asked: number of questions seen, over all steps.
    """

    steps: int
    contexts: int
    questions: int
    asked: int

    def share(self, share: float) -> Amount:
        """Return a share of it, at least one step where there is one."""
        steps = min(self.steps, max(1, round(share * self.steps)))
        return Amount(steps, self.contexts, self.questions, round(self.asked * steps / max(1, self.steps)))


@dataclass(frozen=True)
class TrainingBudget:
    """Holds what a rival may learn from and for how long: by default as much as the wire.

    Attributes:
        train: passages that training reads, in the wire's order.
        val: passages that choose the moment of training that is kept; never those of the evaluation.
        val_questions: number of questions about each of them.
        amount: how much is read.
        steps_per_epoch: number of steps between two validations; the schedule's epochs.
        schedule: factor on the learning rate.
        seed: seed of the stream.
        metric: what the best validation is: the highest `f1` (among equals the lowest NLL), or the lowest `nll`.
        max_new_tokens: longest answer in validation.
        data: what identifies the passages (configuration of the corpus, fingerprints of files).
    """

    train: Sequence[Passage]
    val: Sequence[Passage]
    val_questions: int
    amount: Amount
    steps_per_epoch: int
    schedule: LRSchedule
    seed: int
    metric: Literal["f1", "nll"]
    max_new_tokens: int
    data: str

    def identity(self) -> dict[str, Any]:
        """Return plain values that determine everything a rival is given."""
        return {
            "amount": asdict(self.amount),
            "steps_per_epoch": self.steps_per_epoch,
            "schedule": dict(sorted(vars(self.schedule).items())),
            "seed": self.seed,
            "metric": self.metric,
            "max_new_tokens": self.max_new_tokens,
            "val": [len(self.val), self.val_questions],
            "data": self.data,
        }


def learn_answers(
    lm: FrozenLM, budget: TrainingBudget, amount: Amount, read: Read, net: nn.Module, lr: float
) -> list[dict[str, float]]:
    """Train what makes a prefix on answers, and leave `net` as it was at its best validation.

    The step is the wire's: the stream's batch, each context read once for all its questions, the mean NLL of whole
    answers, gradients clipped at norm 1, the rate of the wire's schedule. The optimiser is Adam.

    Args:
        lm: the model that reads.
        budget: what is learned from.
        amount: how much of it, e.g. `budget.amount`.
        read: passages to what `lm` reads, differentiable in the parameters of `net`.
        net: holds the parameters; those without gradients stay.
        lr: learning rate before the schedule's factor.

    Returns:
        `step`, `f1` and `nll` of each validation, in order; the first is untrained.
    """
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr)
    per_epoch = budget.steps_per_epoch
    schedule = budget.schedule(optimiser, per_epoch, max(1, -(-amount.steps // per_epoch)))
    renderer = Renderer(lm)
    held = Stream(budget.val, budget.val_questions, 0)
    questions = held.draw([(i, 0) for i in range(len(budget.val))])[:2]
    found: list[dict[str, float]] = []
    kept: dict[str, Tensor] = {}

    def validate(step: int) -> None:
        nonlocal kept
        found.append({"step": float(step), **_score(lm, renderer, read, questions, budget.max_new_tokens)})
        if found[-1] is max(reversed(found), key=lambda v: _rank(v, budget.metric)):
            kept = {name: t.detach().clone() for name, t in state(net).items()}

    validate(0)
    stream = Stream(budget.train, amount.questions, budget.seed, per_epoch * amount.contexts)
    for step, (passages, asked) in zip(range(1, amount.steps + 1), stream.batches(amount.contexts), strict=False):
        rows = answer_rows(renderer, passages, asked)
        prefix = read(passages, [p.questions[0] for p in passages])
        out = batches.read(lm, prefix, {"answer": rows}, {"answer"})["answer"]
        optimiser.zero_grad()
        out.nll().mean().backward()
        nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimiser.step()
        schedule.step()
        if step % per_epoch == 0 or step == amount.steps:
            validate(step)
    load_state(net, kept)
    return found


def state(net: nn.Module) -> dict[str, Tensor]:
    """Return what training may have changed: parameters with gradients, and buffers that are saved."""
    fixed = {name for name, p in net.named_parameters() if not p.requires_grad}
    return {name: t for name, t in net.state_dict().items() if name not in fixed}


def load_state(net: nn.Module, saved: dict[str, Tensor]) -> None:
    """Take in what `state` returned. Raises ValueError where names or shapes differ."""
    own = state(net)
    if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in saved.items()}:
        raise ValueError(f"tensors {sorted(saved)[:4]}, expected {sorted(own)[:4]}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def answer_rows(renderer: Renderer, passages: Sequence[Passage], asked: Asked) -> Rows:
    rows = Rows()
    prompts = renderer.ask([(passages[b], question) for b, question in asked])
    for (b, _), prompt in zip(asked, prompts, strict=True):
        rows.add(b, prompt.question, prompt.answer)
    return rows


@torch.no_grad()
def _score(
    lm: FrozenLM, renderer: Renderer, read: Read, questions: tuple[list[Passage], Asked], new: int
) -> dict[str, float]:
    passages, asked = questions
    rows = answer_rows(renderer, passages, asked)
    prefix = lm.cached(read(passages, [p.questions[0] for p in passages])).select(rows.source)
    nll = lm.answer_logprobs(prefix, rows.question, rows.answer).nll().mean()
    answers = [lm.style.decode(ids) for ids in lm.generate(prefix, rows.question, new)]
    scores = [best(f1, answer, q.answers) for answer, (_, q) in zip(answers, asked, strict=True)]
    return {"f1": sum(scores) / len(scores), "nll": float(nll)}


def _rank(validation: dict[str, float], metric: Literal["f1", "nll"]) -> tuple[float, float]:
    return (validation["f1"] if metric == "f1" else 0.0, -validation["nll"])
