"""Cross-entropy on answers, on the text itself and on its continuation, in nats per token.

Each is a mean over rows of the mean over a row's tokens.
"""

from __future__ import annotations

from callbacks.errors import UserError
from callbacks.ranges import Count, OpenShare
from latentwire.lm.metrics import first_token
from latentwire.objectives.base import Needs, Objective, ObjectiveOutput, Seen
from latentwire.train.curriculum import Schedule


class AnswerCE(Objective):
    """Scores all tokens of the answer, EOS included: -1/|a| sum_i log p(a_i | latents, question, a_<i)."""

    likelihood = True
    observes = ("first_token_top1",)
    first: int | None = None  # so many tokens of each answer; None: all

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        rows = seen.rows["answer"]
        return ObjectiveOutput(rows.nll(self.first).mean(), {"first_token_top1": first_token(rows).top1.mean()})


class FirstTokenCE(AnswerCE):
    """Scores the first token of the answer: -log p(a_1 | latents, question)."""

    first = 1


class KTokenCE(Objective):
    """Scores the first k tokens of each answer.

    Args:
        weight: its weight over time.
        k: number of tokens.
    """

    likelihood = True

    def __init__(self, weight: Schedule, k: Count = 4):
        super().__init__(weight)
        self.k = k

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        return ObjectiveOutput(seen.rows["answer"].nll(self.k).mean())


class TextReconstruction(Objective):
    """Autoencodes through the language model (ICAE, Ge et al., 2024): NLL of the whole text, asked for by `cue`.

    The text is the answer to the cue, forced along its own tokens: what the latents do not say, earlier tokens may.

    Args:
        weight: its weight over time.
        cue: the question that asks for the text, rendered like every other one.
    """

    likelihood = True

    def __init__(self, weight: Schedule, cue: str = "Repeat the text."):
        super().__init__(weight)
        self.needs = Needs(frozenset({"text"}), cue=cue)

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        return ObjectiveOutput(seen.rows["text"].nll().mean())


class Continuation(Objective):
    """Encodes the beginning of a text and scores the rest (language modelling, ICAE's second task).

    The first token of the rest is given as text: a cache of latents alone predicts nothing.

    Args:
        weight: its weight over time.
        low: smallest share of the words that is encoded; the share is drawn.
        high: largest share.
    """

    likelihood = True

    def __init__(self, weight: Schedule, low: OpenShare = 0.3, high: OpenShare = 0.8):
        super().__init__(weight)
        if low > high:
            raise UserError(
                "objectives.continuation",
                f"low {low}, high {high}",
                "low at most as large as high",
                "set objectives.continuation.low=0.3 and objectives.continuation.high=0.8",
            )
        self.needs = Needs(frozenset({"continuation"}), words=(low, high))

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        rows = seen.rows.get("continuation")  # texts of one word have no rest
        return ObjectiveOutput(seen.latents.sum() * 0.0 if rows is None else rows.nll().mean())
