"""Cross-entropy on answers, on the text itself and on its continuation, in nats per token."""

from __future__ import annotations

from callbacks.errors import UserError
from latentwire.objectives.base import Objective, Outcome, Seen, first_token, mean_nll
from latentwire.train.curriculum import Schedule


class AnswerCE(Objective):
    """-1/|a| sum_i log p(a_i | latents, question, a_<i): all tokens of the answer, its EOS included."""

    def forward(self, seen: Seen, model: str) -> Outcome:
        rows = seen.rows["answer"]
        return Outcome(mean_nll(rows), {"first_token_top1": first_token(rows)})


class FirstTokenCE(Objective):
    """-log p(a_1 | latents, question)."""

    def forward(self, seen: Seen, model: str) -> Outcome:
        rows = seen.rows["answer"]
        return Outcome(mean_nll(rows, 1), {"first_token_top1": first_token(rows)})


class KTokenCE(Objective):
    """Like AnswerCE over the first k tokens of each answer.

    Args:
        weight: over time.
        k: tokens.
    """

    def __init__(self, weight: Schedule, k: int = 4):
        super().__init__(weight)
        if k < 1:
            raise UserError("objective k", str(k), "1 or more tokens", "correct k")
        self.k = k

    def forward(self, seen: Seen, model: str) -> Outcome:
        return Outcome(mean_nll(seen.rows["answer"], self.k))


class TextReconstruction(Objective):
    """Autoencoding through the language model (ICAE, Ge et al., 2024): NLL of the whole text, asked for by `cue`.

    Args:
        weight: over time.
        cue: the question that asks for the text, rendered like every other one.
    """

    needs = ("text",)

    def __init__(self, weight: Schedule, cue: str = "Repeat the text."):
        super().__init__(weight)
        self.cue = cue

    def forward(self, seen: Seen, model: str) -> Outcome:
        return Outcome(mean_nll(seen.rows["text"]))


class Continuation(Objective):
    """Language modelling (ICAE's second task): the beginning of a text is encoded, NLL of the rest.

    The first token of the rest is given as text: a cache of latents alone predicts nothing.

    Args:
        weight: over time.
        low, high: the share of the words that is encoded is drawn between these.
    """

    needs = ("continuation",)

    def __init__(self, weight: Schedule, low: float = 0.3, high: float = 0.8):
        super().__init__(weight)
        if not 0 < low <= high < 1:
            raise UserError("objective low, high", f"{low}, {high}", "0 < low <= high < 1", "correct them")
        self.low, self.high = low, high

    def forward(self, seen: Seen, model: str) -> Outcome:
        rows = seen.rows.get("continuation")  # texts of one word have no rest
        return Outcome(seen.latents.sum() * 0.0 if rows is None else mean_nll(rows))
