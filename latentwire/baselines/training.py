"""Training batches of the baselines that learn."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from latentwire.data.base import Passage, Question
from latentwire.examples import prompt_of
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.prompts import Prompt


def pair_batches(
    train: Sequence[Passage], batch: int, steps: int, seed: int
) -> Iterator[list[tuple[Passage, Question]]]:
    """`steps` batches of (passage, question), drawn with replacement; the same for the same seed."""
    draw = random.Random(seed)
    for _ in range(steps):
        passages = [train[draw.randrange(len(train))] for _ in range(batch)]
        yield [(p, draw.choice(p.questions)) for p in passages]


def prompt_batches(lm: FrozenLM, train: Sequence[Passage], batch: int, steps: int, seed: int) -> Iterator[list[Prompt]]:
    """`pair_batches` as the prompts that an evaluation would render."""
    for pairs in pair_batches(train, batch, steps, seed):
        yield [prompt_of(lm, p, q) for p, q in pairs]
