"""The answer by the meaning of its tokens: near misses cost less than far ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from callbacks.ranges import Count
from latentwire.objectives.base import Objective, ObjectiveOutput, Seen
from latentwire.train.curriculum import Schedule


class AnswerEmbedding(Objective):
    """Brings the expected embedding of each answer token to that of the right one.

        loss = mean over answers and their tokens of 1 - cos(sum_v p_v e_v, e_a)

    The sum is over the k most probable tokens, p renormalised over them: N k d_model numbers in place of a product with
    the whole vocabulary. Embeddings are the model's own and do not move. It is no likelihood: a token that is close in
    meaning and wrong costs little, so it stands beside `answer_ce` and not for it.

    Args:
        weight: its weight over time.
        k: the number of tokens that the expectation is over.
    """

    observes = ("answer_cosine",)

    def __init__(self, weight: Schedule, k: Count = 32):
        super().__init__(weight)
        self.k = k

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        if seen.embed is None:
            raise RuntimeError("answer embedding without the model's embeddings")
        rows = seen.rows["answer"]
        best = rows.scores.topk(min(self.k, rows.scores.shape[1]), -1)
        with torch.no_grad():
            candidates, right = (seen.embed(ids).to(best.values) for ids in (best.indices, rows.tokens))
        expected = (best.values.softmax(-1).unsqueeze(1) @ candidates).squeeze(1)
        cosine = F.cosine_similarity(expected, right, dim=-1)
        return ObjectiveOutput(rows.per_answer(1 - cosine).mean(), {"answer_cosine": cosine.detach().mean()})
