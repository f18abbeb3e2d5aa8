"""What a frozen language model gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnswerLogprobs:
    """Log-probabilities at the N answer positions of a batch of B, answer after answer; nothing else was computed.

    Attributes:
        scores: (N, V) log-probabilities over the vocabulary, float32; differentiable.
        tokens: (N,) the answers' ids.
        row: (N,) which of the B examples.
        position: (N,) index within the answer; 0 is the first token.
        batch: B.
        hidden: layer -> (N, d_model) state at the position that predicts the token; the layers asked for.
    """

    scores: Tensor
    tokens: Tensor
    row: Tensor
    position: Tensor
    batch: int
    hidden: dict[int, Tensor] = field(default_factory=dict)

    @property
    def logprobs(self) -> Tensor:
        """(N,) log-probability of each answer token, float32."""
        return self.scores.gather(1, self.tokens[:, None])[:, 0]

    def nll(self, first: int | None = None) -> Tensor:
        """(B,) mean negative log-probability per answer token in nats, over the first `first` tokens or all."""
        use = self.position < (int(self.position.max()) + 1 if first is None else first)
        zeros = self.logprobs.new_zeros(self.batch)
        total = zeros.index_add(0, self.row[use], -self.logprobs[use])
        return total / zeros.index_add(0, self.row[use], torch.ones_like(self.logprobs[use]))


@dataclass(frozen=True)
class Generation:
    """Greedy continuations without the stop token, and the log-probability of every token (of the stop token too).

    Fewer than `max_new_tokens` tokens: the model stopped by itself.
    """

    tokens: list[list[int]]
    logprobs: list[list[float]]


@dataclass(frozen=True)
class EmbeddingStats:
    """Input embeddings of the tokens of real text, in order of occurrence; float32 on the CPU.

    Attributes:
        rms: (n,) root mean square over d_model of each token's embedding; ‖e‖ = rms · sqrt(d_model).
        mean, std: (d_model,) per channel over the tokens.
    """

    rms: Tensor
    mean: Tensor
    std: Tensor

    def quantiles(self, at: Sequence[float] = (0.05, 0.5, 0.95)) -> list[float]:
        """Quantiles of the per-token RMS."""
        return torch.quantile(self.rms, torch.tensor(at)).tolist()
