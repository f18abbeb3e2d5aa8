"""What a frozen language model gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnswerLogprobs:
    """Holds log-probabilities at the N answer positions of a batch of B, answer after answer; all that was computed.

    Attributes:
        scores: (N, V) log-probabilities over the vocabulary, float32; differentiable.
        tokens: (N,) ids of the answers.
        row: (N,) numbers of the examples, 0 … B - 1.
        position: (N,) indices within the answers; 0 is the first token.
        batch: number of examples B.
        states: states (N, d_hidden) of the layers that were asked for, by number, where these tokens are predicted.
    """

    scores: Tensor
    tokens: Tensor
    row: Tensor
    position: Tensor
    batch: int
    states: Mapping[int, Tensor] = field(default_factory=dict)

    @staticmethod
    def joined(parts: Sequence[AnswerLogprobs]) -> AnswerLogprobs:
        """Return several batches as one, in order."""
        starts = [sum(p.batch for p in parts[:i]) for i in range(len(parts))]
        return AnswerLogprobs(
            torch.cat([p.scores for p in parts]),
            torch.cat([p.tokens for p in parts]),
            torch.cat([p.row + start for p, start in zip(parts, starts, strict=True)]),
            torch.cat([p.position for p in parts]),
            sum(p.batch for p in parts),
            {number: torch.cat([p.states[number] for p in parts]) for number in parts[0].states},
        )

    @property
    def logprobs(self) -> Tensor:
        """The log-probability of each answer token, (N,) float32."""
        return self.scores.gather(1, self.tokens[:, None])[:, 0]

    def nll(self, first: int | None = None) -> Tensor:
        """Return the negative log-probability per answer token in nats as `per_answer` takes its mean; (B,)."""
        return self.per_answer(-self.logprobs, first)

    def per_answer(self, values: Tensor, first: int | None = None) -> Tensor:
        """Return the mean of values (N,) over each answer, over its first `first` tokens or all; (B,)."""
        use = self.position < (int(self.position.max()) + 1 if first is None else first)
        values, row, zeros = values[use], self.row[use], values.new_zeros(self.batch)
        return zeros.index_add(0, row, values) / zeros.index_add(0, row, torch.ones_like(values))


@dataclass(frozen=True)
class Generation:
    """Holds greedy continuations without the stop token, and log-probabilities of all tokens, the stop token too.

    Fewer than `max_new_tokens` tokens: the model stopped by itself.

    Attributes:
        tokens: ids of each example.
        logprobs: log-probability of each token.
        prefill_s: seconds of the forward pass over prefix and prompt, which ends with the first token's distribution.
        decode_s: seconds of all further passes.
    """

    tokens: list[list[int]]
    logprobs: list[list[float]]
    prefill_s: float = 0.0
    decode_s: float = 0.0
