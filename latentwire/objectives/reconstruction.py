"""Regression of the language model's own token embeddings from the latents."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from latentwire.encoders.pooling import unchunk
from latentwire.objectives.base import Needs, Objective, ObjectiveOutput, Seen
from latentwire.train.curriculum import Schedule


def embedding_loss(predicted: Tensor, target: Tensor, cosine: float, mse: float) -> tuple[Tensor, Tensor]:
    """Return cosine * mean (1 - cos) + mse * mean squared error, float32, and the mean cosine without gradient.

    Args:
        predicted: (N, d) embeddings.
        target: (N, d) embeddings.
        cosine: weight of the first part.
        mse: weight of the second part.
    """
    predicted, target = predicted.float(), target.float()
    similarity = F.cosine_similarity(predicted, target, dim=-1)
    loss = cosine * (1 - similarity).mean() + mse * F.mse_loss(predicted, target)
    return loss, similarity.detach().mean()


class EmbeddingReconstruction(Objective):
    """Predicts every token of chunk j from slot j, with one linear map per language model.

    The loss is `embedding_loss` on embeddings divided by their RMS.

    Chunks are those of mean pooling, so each token has its own target: the mean of the text repeated reaches a high
    cosine and no skill. A high cosine here is not task skill either; report both.

    Args:
        weight: its weight over time.
        cosine: weight of the cosine in the loss.
        mse: weight of the squared error in the loss.
    """

    needs = Needs(frozenset(), context=True)

    def __init__(self, weight: Schedule, cosine: float = 1.0, mse: float = 0.1):
        super().__init__(weight)
        self.cosine, self.mse = cosine, mse
        self.heads = nn.ModuleDict()
        self.chunk = 0

    def prepare(self, models: dict[str, int], d_z: int, chunk: int) -> None:
        self.chunk = chunk
        for name, width in models.items():
            self.heads[name] = nn.Linear(d_z, chunk * width)

    def predict(self, latents: Tensor, lengths: Tensor, model: str) -> Tensor:
        """Predict embeddings (B, T, d_model) from latents (B, M, d_z) of texts of `lengths` (B,) tokens.

        Tokens beyond a chunk's places repeat its last one.
        """
        return unchunk(self.heads[model](latents).unflatten(-1, (self.chunk, -1)), lengths)

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        target, mask = seen.embeddings()
        predicted = self.predict(seen.latents, mask.sum(1), model)
        loss, cosine = embedding_loss(predicted[mask], target[mask] / seen.scale, self.cosine, self.mse)
        return ObjectiveOutput(loss, {"cosine": cosine})
