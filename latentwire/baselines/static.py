"""A learned prefix that is the same for every passage: what M latents give without any message."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from callbacks.ranges import PositiveShare, Rate
from latentwire.baselines.learned import LearnedBaseline
from latentwire.baselines.training import Amount, TrainingBudget, learn_answers
from latentwire.data.base import Passage, Question
from latentwire.examples import context_ids
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix


class _Embeddings(nn.Module):
    def __init__(self, slots: int, width: int, device: torch.device):
        super().__init__()
        self.embeds = nn.Parameter(torch.zeros(slots, width, device=device))


class StaticPrefix(LearnedBaseline[_Embeddings]):
    """Tunes a prompt (Lester et al., 2021): M free embeddings, trained on answers with the model frozen.

    They start as embeddings of the first tokens of training texts. A wire that is no better sends nothing.

    Args:
        lr: learning rate of Adam, before the factor of the wire's schedule.
        share: share of the wire's training that it gets.
    """

    name = "static_prefix"
    remark = "learned, the same for every passage: sends nothing"

    def __init__(self, lr: Rate = 1e-2, share: PositiveShare = 1.0):
        super().__init__(share)
        self.lr = lr

    def make(self, lm: FrozenLM, budget: TrainingBudget, slots: int) -> _Embeddings:
        return _Embeddings(slots, lm.d_model, lm.input_device)

    def learn(self, net: _Embeddings, lm: FrozenLM, budget: TrainingBudget, amount: Amount, slots: int) -> None:
        texts = [budget.train[k] for k in range(min(slots, len(budget.train)))]
        first = [i for p in texts for i in context_ids(lm, p, p.questions[0])]
        with torch.no_grad():
            net.embeds.copy_(lm.embed(torch.tensor([first[k % len(first)] for k in range(slots)])))

        def read(passages: Sequence[Passage], questions: Sequence[Question]) -> Prefix:
            return Prefix(embeds=net.embeds.expand(len(passages), -1, -1))

        learn_answers(lm, budget, amount, read, net, self.lr)

    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        return Prefix(embeds=self.learned(lm, slots).embeds.expand(len(passages), -1, -1))

    def message_bytes(self, lm: FrozenLM, slots: int) -> int | None:
        return 0
