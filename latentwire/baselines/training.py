"""How baselines learn: on answers, with the reader frozen."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn

from latentwire.data.base import Passage
from latentwire.examples import prompt_of
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import Prompt


def prompt_batches(lm: FrozenLM, train: Sequence[Passage], batch: int, steps: int, seed: int) -> Iterator[list[Prompt]]:
    """Yield `steps` batches of prompts as an evaluation would render them, drawn with replacement.

    The same seed gives the same passages and questions.
    """
    draw = random.Random(seed)
    for _ in range(steps):
        passages = [train[draw.randrange(len(train))] for _ in range(batch)]
        yield [prompt_of(lm, p, draw.choice(p.questions)) for p in passages]


def learn_answers(
    lm: FrozenLM,
    batches: Iterable[Sequence[Prompt]],
    prefix: Callable[[Sequence[Prompt]], Prefix],
    parameters: Iterable[nn.Parameter | torch.Tensor],
    lr: float,
) -> None:
    """Train what makes a prefix on the answers of prompts, one step of Adam per batch."""
    optimiser = torch.optim.Adam(list(parameters), lr)
    for prompts in batches:
        out = lm.answer_logprobs(prefix(prompts), [p.question for p in prompts], [p.answer for p in prompts])
        optimiser.zero_grad()
        out.nll().mean().backward()
        optimiser.step()
