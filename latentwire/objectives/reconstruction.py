"""Regression of the language model's own token embeddings from the latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentwire.encoders.pooling import chunk_borders
from latentwire.objectives.base import Objective, Outcome, Seen
from latentwire.train.curriculum import Schedule


def embedding_loss(predicted: Tensor, target: Tensor, cosine: float, mse: float) -> tuple[Tensor, Tensor]:
    """cosine * mean (1 - cos) + mse * mean squared error, over tokens, float32; and the mean cosine without gradient.

    Args:
        predicted, target: (N, d).
    """
    predicted, target = predicted.float(), target.float()
    similarity = F.cosine_similarity(predicted, target, dim=-1)
    loss = cosine * (1 - similarity).mean() + mse * F.mse_loss(predicted, target)
    return loss, similarity.detach().mean()


class EmbeddingReconstruction(Objective):
    """Slot j predicts every token of chunk j with one linear map per language model; loss: `embedding_loss` on
    embeddings divided by their RMS.

    Chunks are those of mean pooling, so each token has its own target: the mean of the text repeated reaches a high
    cosine and no skill. A high cosine here is not task skill either; report both.

    Args:
        weight: over time.
        cosine, mse: weights of the two parts.
    """

    needs = ()

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
        """Latents (B, M, d_z) of texts of `lengths` (B,) tokens -> (B, T, d_model); tokens beyond a chunk's places
        repeat its last one.
        """
        places = self.heads[model](latents).unflatten(-1, (self.chunk, -1))  # (B, M, chunk, d)
        start, _ = chunk_borders(lengths, latents.shape[1])
        t = torch.arange(int(lengths.max()), device=latents.device)
        slot = ((t >= start.unsqueeze(2)).sum(1) - 1).clamp(min=0)  # (B, T)
        place = (t - start.gather(1, slot)).clamp(max=places.shape[2] - 1)
        row = torch.arange(len(latents), device=latents.device).unsqueeze(1)
        return places[row, slot, place]

    def forward(self, seen: Seen, model: str) -> Outcome:
        target, mask = seen.embeddings()
        predicted = self.predict(seen.latents, mask.sum(1), model)
        loss, cosine = embedding_loss(predicted[mask], target[mask] / seen.scale, self.cosine, self.mse)
        return Outcome(loss, {"cosine": cosine})
