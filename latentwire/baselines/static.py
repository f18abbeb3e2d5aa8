"""A learned prefix that is the same for every passage: what M latents give without any message."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latentwire.baselines.base import LearnedBaseline
from latentwire.baselines.training import learn_answers, prompt_batches
from latentwire.data.base import Passage, Question
from latentwire.examples import context_ids
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix


class StaticPrefix(LearnedBaseline[Tensor]):
    """Tunes a prompt (Lester et al., 2021): M free embeddings, trained on answers with the model frozen.

    They start as embeddings of the first tokens of training texts. A wire that is no better sends nothing.

    Args:
        lr: learning rate of Adam.
        batch: number of questions per step.
        seed: seed of the order of training.
    """

    name = "static_prefix"
    remark = "learned, the same for every passage: sends nothing"

    def __init__(self, lr: float = 1e-2, batch: int = 32, seed: int = 0):
        super().__init__()
        self.lr, self.batch, self.seed = lr, batch, seed

    def learn(self, lm: FrozenLM, train: Sequence[Passage], slots: int, steps: int) -> Tensor:
        texts = [train[k] for k in range(min(slots, len(train)))]
        first = [i for p in texts for i in context_ids(lm, p, p.questions[0])]
        ids = torch.tensor([first[k % len(first)] for k in range(slots)])
        prefix = lm.embed(ids).detach().float().clone().requires_grad_(True)
        batches = prompt_batches(lm, train, self.batch, steps, self.seed)
        learn_answers(lm, batches, lambda p: Prefix(embeds=prefix.expand(len(p), -1, -1)), [prefix], self.lr)
        return prefix.detach()

    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        return Prefix(embeds=self.learned(lm, slots).expand(len(passages), -1, -1))

    def message_bytes(self, lm: FrozenLM, slots: int) -> int | None:
        return 0
