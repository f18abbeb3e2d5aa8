"""Regression of the language model's own token embeddings from what its adapter makes of the latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.ranges import NonNegative
from latentwire.encoders.pooling import unchunk
from latentwire.encoders.transformer import hush
from latentwire.objectives.base import Needs, Objective, ObjectiveOutput, ReaderShape, Seen
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
    """Predicts every token of chunk j from what the reader's adapter makes of slot j.

        x_t = [y_j(t)] + sum over slices s of W_s,p V_s y_s,j(t)        loss: `embedding_loss` on x_t and e_t / rms(e)

    y: the adapter's output, in units of its calibration; j(t) and p: the slot that covers token t and the token's place
    in its chunk (`pooling.chunk_borders`; every slice covers the whole text). V_s narrows to d_z, which is all that a
    latent can say. The term in brackets stands where the model reads the adapter's output as embeddings
    (`soft_prefix`), for the slice with most slots: the adapter itself then has to learn the embedding space, and W,
    which starts close to zero, what tells the tokens of a chunk apart.

    The gradient reaches encoder, codec and adapter, and the maps V and W. It does not reach what an injector has behind
    its adapter (the keys and values of `deep_prefix`) nor LoRA: `TextReconstruction` does.

    Each token has its own target: the mean of the text repeated reaches a high cosine and no skill. A high cosine here
    is not task skill either; report both.

    Args:
        weight: its weight over time.
        cosine: weight of the cosine in the loss.
        mse: weight of the squared error in the loss.
    """

    needs = Needs(frozenset(), context=True)
    reaches = frozenset({"encoder", "codec", "adapter"})
    places = True
    observes = ("cosine",)

    def __init__(self, weight: Schedule, cosine: NonNegative = 1.0, mse: NonNegative = 0.1):
        super().__init__(weight)
        self.cosine, self.mse = cosine, mse
        self.heads = nn.ModuleDict()
        self.shapes: dict[str, ReaderShape] = {}

    def prepare(self, readers: Mapping[str, ReaderShape], d_z: int) -> None:
        self.shapes = dict(readers)
        for name, shape in readers.items():
            self.heads[name] = nn.ModuleList(_head(shape, chunk, d_z) for chunk in shape.chunks)

    def predict(self, adapted: Tensor, counts: Sequence[int], lengths: Tensor, model: str) -> Tensor:
        """Predict embeddings (B, T, d_model) of texts of `lengths` (B,) tokens.

        Tokens beyond a chunk's places repeat its last one.

        Args:
            adapted: (B, M, d_adapter) what the adapter makes of the slots.
            counts: number of slots of each slice, summing to M.
            lengths: number of tokens of each text, as this model counts them.
            model: the model that reads.
        """
        shape, heads = self.shapes[model], self.heads[model]
        assert isinstance(heads, nn.ModuleList)
        finest = max(range(len(counts)), key=lambda s: counts[s])
        found: list[Tensor] = []
        for number, (head, y) in enumerate(zip(heads, adapted.split(list(counts), 1), strict=True)):
            if counts[number] == 0:
                continue
            places = head(y).unflatten(-1, (-1, shape.d_model))
            if number == finest and shape.embeds:
                places = places + y.unsqueeze(2)
            found.append(unchunk(places, lengths))
        return torch.stack(found).sum(0)

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        if seen.adapted is None:
            raise RuntimeError("embedding reconstruction without an adapter's output")
        target, mask = seen.embeddings()
        predicted = self.predict(seen.adapted(), seen.counts, mask.sum(1), model)
        loss, cosine = embedding_loss(predicted[mask], target[mask] / seen.scale, self.cosine, self.mse)
        return ObjectiveOutput(loss, {"cosine": cosine})


@torch.no_grad()
def _head(shape: ReaderShape, chunk: int, d_z: int) -> nn.Module:
    """Return W V of one slice: (…, d_adapter) -> (…, chunk * d_model); without places for a slice that has no slots."""
    if chunk == 0:
        return nn.Identity()
    narrow = min(d_z, shape.d_adapter)
    wide = nn.Linear(narrow, chunk * shape.d_model)
    if shape.embeds:
        hush(wide)
    return nn.Sequential(nn.Linear(shape.d_adapter, narrow, bias=False), wide)
