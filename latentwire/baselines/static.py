"""A learned prefix that is the same for every passage: what M latents give without any message."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from callbacks.errors import UserError
from latentwire.baselines.base import Baseline, need_training
from latentwire.baselines.training import prompt_batches
from latentwire.data.base import Passage, Question
from latentwire.examples import context_ids
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix


class StaticPrefix(Baseline):
    """Prompt tuning (Lester et al., 2021): M free embeddings, trained on answers with the model frozen.

    They start as embeddings of the first tokens of training texts. A wire that is no better sends nothing.

    Args:
        lr: Adam's learning rate.
        batch: questions per step.
        seed: order of training.
    """

    name = "static_prefix"
    track = "trained"
    remark = "learned, the same for every passage: sends nothing"

    def __init__(self, lr: float = 1e-2, batch: int = 32, seed: int = 0):
        self.lr, self.batch, self.seed = lr, batch, seed
        self._learned: dict[tuple[str, int], Tensor] = {}

    def fit(self, lm: FrozenLM, train: Sequence[Passage], slots: int, steps: int) -> None:
        need_training(self.name, train)
        texts = [train[k] for k in range(min(slots, len(train)))]
        first = [i for p in texts for i in context_ids(lm, p, p.questions[0])]
        ids = torch.tensor([first[k % len(first)] for k in range(slots)])
        prefix = lm.embed(ids).detach().float().clone().requires_grad_(True)
        optimiser = torch.optim.Adam([prefix], self.lr)
        for prompts in prompt_batches(lm, train, self.batch, steps, self.seed):
            given = Prefix(embeds=prefix.expand(len(prompts), -1, -1))
            loss = lm.answer_logprobs(given, [p.question for p in prompts], [p.answer for p in prompts]).nll().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        self._learned[lm.name, slots] = prefix.detach()

    def prefix(
        self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int
    ) -> tuple[Prefix, list[str | None]]:
        if (lm.name, slots) not in self._learned:
            raise UserError(f"baseline {self.name}", "not fitted", f"fit for {lm.name} at M={slots}", "call fit first")
        return Prefix(embeds=self._learned[lm.name, slots].expand(len(passages), -1, -1)), [None for _ in passages]

    def message_bytes(self, lm: FrozenLM, slots: int) -> int | None:
        return 0
