"""Scheduled sampling: in training, answers go on from some of the model's own tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from callbacks.ranges import Share, Steps
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.train.batches import Ids, Rows
from latentwire.train.curriculum import Linear


class ScheduledSampling:
    """Replaces a share of the answer tokens that are read by what the model itself would have said there.

    Bengio et al., NeurIPS 2015 (arXiv 1506.03099), in two passes (Mihaylova and Martins, 2019, arXiv 1906.07651): a
    pass without gradient on the gold answer says the likeliest token at every place, and each token that is read, all
    but the last of an answer, is replaced by it with probability share(t). Scored are the gold tokens as before. A
    reader that was always given them has never seen its own mistakes. Rows with wrong latents read the same tokens as
    those with the right ones; other kinds of rows read their own, and a teacher stays on the gold answer.

    share(t) goes from `first` to `last` in a straight line, and stays. At a share of 0 there is no further pass and the
    step is that of teacher forcing to the last bit.

    Draws are a function of seed, step, model and question: no rank, no part of a batch and no restart differs.

    Args:
        first: the share until `start`.
        last: the share from `start + steps` on.
        steps: the length of the way, in committed steps.
        start: where it begins.
    """

    def __init__(self, first: Share = 0.0, last: Share = 0.3, steps: Steps = 1000, start: Steps = 0):
        self._share = Linear(first, last, steps, start)

    def share(self, t: int) -> float:
        """Return the share at step t."""
        return self._share.weight(t, {})

    @torch.no_grad()
    def read(
        self, lm: FrozenLM, prefix: Prefix, rows: Rows, questions: Sequence[str], seed: int, t: int
    ) -> list[Ids] | None:
        """Return what each row's answer is read as, of the same lengths; None: as it is.

        Args:
            lm: the model.
            prefix: what it reads of the texts.
            rows: the rows, in the order of `questions`.
            questions: names of their questions.
            seed: seed of the run.
            t: number of committed steps.
        """
        share = self.share(t)
        if share == 0 or not len(rows):
            return None
        found = lm.answer_logprobs(prefix.select(rows.source), rows.question, rows.answer)
        said = iter(found.scores.argmax(-1).tolist())
        own = [[next(said) for _ in answer] for answer in rows.answer]
        draws = [random.Random(f"{seed}/sampling/{t}/{lm.name}/{question}") for question in questions]
        return [mixed(gold, instead, share, draw) for gold, instead, draw in zip(rows.answer, own, draws, strict=True)]


def mixed(gold: Sequence[int], own: Sequence[int], share: float, draw: random.Random) -> Ids:
    """Return gold tokens, each replaced by the one in its place with probability `share`; the last one stays."""
    body = [b if draw.random() < share else a for a, b in zip(gold[:-1], own[:-1], strict=True)]
    return (*body, gold[-1])
