"""Cross-entropy on answers, on the text itself and on its continuation, in nats per token.

Each is a mean over rows of the mean over a row's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from callbacks.errors import UserError
from callbacks.ranges import Count, Multiple, OpenShare, Positive, ShareBelowOne
from latentwire.lm.metrics import first_token
from latentwire.objectives.base import Needs, Objective, ObjectiveOutput, Seen
from latentwire.train.curriculum import Schedule


class AnswerCE(Objective):
    """Scores all tokens of the answer, EOS included: -1/|a| sum_i log p(a_i | latents, question, a_<i).

    With smoothing e the target of a token is (1 - e) on it and e / V on every token of the vocabulary (Szegedy et al.,
    CVPR 2016), and the loss is no mean NLL any more: its least value is the entropy of that target.

    Args:
        weight: its weight over time.
        smoothing: e.
    """

    likelihood = True
    observes = ("first_token_top1",)

    def __init__(self, weight: Schedule, smoothing: ShareBelowOne = 0.0):
        super().__init__(weight)
        self.smoothing = smoothing
        self.likelihood = smoothing == 0

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        rows = seen.rows["answer"]
        loss = -rows.logprobs
        if self.smoothing:
            loss = (1 - self.smoothing) * loss - self.smoothing * rows.scores.mean(-1)
        return ObjectiveOutput(rows.per_answer(loss).mean(), {"first_token_top1": first_token(rows).top1.mean()})


class FirstTokenCE(Objective):
    """Scores the first token of the answer: -log p(a_1 | latents, question).

    Where `tolerated` is given, the loss is multiplied, without gradient, by min(largest_scale, max(1, loss /
    tolerated)): as long as first tokens are far from it they weigh more, and with it their share of the step falls
    back to the plain weight. The text's own NLL of a first token is what to tolerate.

    Args:
        weight: its weight over time.
        tolerated: the loss, in nats, from which on nothing is scaled; None: never.
        largest_scale: the largest factor.
    """

    likelihood = True
    observes = ("first_token_top1",)

    def __init__(self, weight: Schedule, tolerated: Positive | None = None, largest_scale: Multiple = 8.0):
        super().__init__(weight)
        self.tolerated, self.largest_scale = tolerated, largest_scale
        self.likelihood = tolerated is None

    @staticmethod
    def inert_keys(arguments: Mapping[str, Any]) -> dict[str, str]:
        """Return the bound of a factor that is not there."""
        return {} if arguments.get("tolerated") is not None else {"largest_scale": "tolerated=null scales nothing"}

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        rows = seen.rows["answer"]
        loss = rows.nll(1).mean()
        if self.tolerated is not None:
            loss = loss * (loss.detach() / self.tolerated).clamp(1, self.largest_scale)
        return ObjectiveOutput(loss, {"first_token_top1": first_token(rows).top1.mean()})


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
