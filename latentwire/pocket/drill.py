"""What a pocket model is trained on, batch by batch, and how its answers are counted.

Every batch is a function of (seed, step): a run that was interrupted goes on with the batches it would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from latentwire.data.base import Passage, Question, Split
from latentwire.data.biographies import Biographies, seed_of
from latentwire.lm.prompts import Prompt, Style, render
from latentwire.pocket.packing import Packed, pack


def repeated(ids: Sequence[int], bos: int, rows: int, shortest: int, longest: int, seed: int) -> Tensor:
    """Make random sequences that are told twice, `[BOS][a][a]`, |a| of the batch drawn from `shortest … longest`.

    Returns (rows, 1 + 2·|a|) int64, its tokens drawn from `ids`. Only the second half can be predicted, and only by
    looking up what followed the same token before: the skill that questions about a context are built on.
    """
    g = torch.Generator().manual_seed(seed % 2**63)
    length = int(torch.randint(shortest, longest + 1, (), generator=g))
    a = torch.tensor(ids)[torch.randint(len(ids), (rows, length), generator=g)]
    return torch.cat([torch.full((rows, 1), bos), a, a], 1)


def repetition_loss(model: PreTrainedModel, batch: Tensor) -> tuple[Tensor, float]:
    """Return cross-entropy (nats per token) and top-1 accuracy on the second half of `repeated`."""
    half = (batch.shape[1] - 1) // 2
    hidden = model.model(input_ids=batch).last_hidden_state[:, half:-1]
    logits, target = model.lm_head(hidden), batch[:, half + 1 :]
    # The first token of the second half cannot be known to be a repetition: it is trained on, not counted.
    hits = (logits.argmax(-1) == target)[:, 1:].float().mean()
    return F.cross_entropy(logits.flatten(0, 1), target.flatten()), float(hits)


class Questions:
    """Makes packed batches of biographies for one style of prompt."""

    def __init__(self, style: Style, pad: int):
        self.style, self.pad = style, pad
        # Persons × relations × wordings × values: a few ten thousand at most.
        self._ask = lru_cache(maxsize=None)(lambda text, answer: render(style, None, text, answer))

    def row(self, passage: Passage, questions: Sequence[Question], with_context: bool = True) -> list[Prompt]:
        """Return one prompt per question; with the context's ids, as `render` would give them."""
        context: tuple[int, ...] = ()
        if with_context:
            context = render(self.style, passage.text, questions[0].text).context
        return [replace(self._ask(q.text, q.answers[0]), context=context) for q in questions]

    def batch(self, corpus: Biographies, split: Split, first: int, rows: int, questions: int, seed: int) -> Packed:
        """Pack passages `first … first + rows − 1`, up to `questions` random questions about each."""
        draw = random.Random(seed)
        passages = [corpus.passage(split, first + i) for i in range(rows)]
        chosen = [draw.sample(p.questions, min(questions, len(p.questions))) for p in passages]
        return pack([self.row(p, q) for p, q in zip(passages, chosen, strict=True)], self.pad)


def answer_logits(model: PreTrainedModel, batch: Packed) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (n, V) and targets (n,) of all answer tokens of a batch, and the hidden states (B, T − 1, d)."""
    hidden = model.model(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions)
    states = hidden.last_hidden_state[:, :-1]
    at = batch.answer[:, 1:]
    return model.lm_head(states[at]), batch.ids[:, 1:][at], states


def question_loss(model: PreTrainedModel, batch: Packed, context_weight: float) -> tuple[Tensor, float]:
    """Return the answers' cross-entropy plus `context_weight` times the context's, and the share of exact answers."""
    logits, target, states = answer_logits(model, batch)
    loss = F.cross_entropy(logits, target)
    if context_weight:
        at = batch.context[:, 1:]
        loss = loss + context_weight * F.cross_entropy(model.lm_head(states[at]), batch.ids[:, 1:][at])
    return loss, float(exact(logits, target, batch).float().mean())


def exact(logits: Tensor, target: Tensor, batch: Packed) -> Tensor:
    """Tell which answers are exact, (answers,) bool, row by row: each token, EOS included, is the model's first choice.

    Then, and only then, greedy generation gives exactly this answer and stops.
    """
    at = batch.answer[:, 1:]
    starts = at.clone()
    starts[:, 1:] &= ~at[:, :-1]  # a question always stands between two answers of a row
    number = starts.flatten().cumsum(0)[at.flatten()] - 1
    wrong = torch.zeros(int(starts.sum()), dtype=torch.int64)
    wrong.index_add_(0, number, (logits.argmax(-1) != target).long())
    return wrong == 0


@torch.no_grad()
def exact_match(
    model: PreTrainedModel, questions: Questions, passages: Sequence[Passage], with_context: bool = True, rows: int = 8
) -> float:
    """Return the share of all questions about the passages that greedy generation answers exactly."""
    model.eval()
    hits: list[Tensor] = []
    for i in range(0, len(passages), rows):
        batch = pack([questions.row(p, p.questions, with_context) for p in passages[i : i + rows]], questions.pad)
        logits, target, _ = answer_logits(model, batch)
        hits.append(exact(logits, target, batch))
    return float(torch.cat(hits).double().mean())


def passages_of(people: int, facts: int, split: Split, count: int, seed: int) -> list[Passage]:
    """Return fresh passages for an evaluation."""
    corpus = Biographies(people, facts, seed=seed)
    return [corpus.passage(split, i) for i in range(count)]


def step_seed(seed: int, step: int, what: str) -> int:
    """Return the seed of one batch."""
    return seed_of("pretrain", seed, what, step)
