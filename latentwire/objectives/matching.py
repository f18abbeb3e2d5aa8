"""Latents and their own text find each other among the others of a batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.ranges import Positive, Width
from latentwire.encoders.pooling import chunk_mean
from latentwire.objectives.base import Needs, Objective, ObjectiveOutput, ReaderShape, Seen
from latentwire.train.curriculum import Schedule


def info_nce(u: Tensor, v: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the symmetric contrastive loss of pairs, and the share of pairs that find each other, without gradient.

        s_ij = cos(u_i, v_j) / temperature
        loss = 1/2 mean_i [ -log softmax_j(s_ij)_i ] + 1/2 mean_j [ -log softmax_i(s_ij)_j ]

    As in CLIP (Radford et al., ICML 2021), with a fixed temperature. A pair without others costs nothing.

    Args:
        u: (N, d).
        v: (N, d); row i belongs to row i of u.
        temperature: above 0.
    """
    s = F.normalize(u.float(), dim=-1) @ F.normalize(v.float(), dim=-1).T / temperature
    own = torch.arange(len(s), device=s.device)
    with torch.no_grad():
        found = ((s.argmax(1) == own).float().mean() + (s.argmax(0) == own).float().mean()) / 2
    return (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2, found


class _Matching(Objective):
    """Holds, for each model, a linear map of what its adapter makes of a slot and one of its embeddings of a text.

    Args:
        weight: its weight over time.
        temperature: the factor under the cosines.
        width: the width in which both are compared.
    """

    needs = Needs(frozenset(), context=True)
    reaches = frozenset({"encoder", "codec", "adapter"})

    def __init__(self, weight: Schedule, temperature: Positive = 0.1, width: Width = 64):
        super().__init__(weight)
        self.temperature, self.width = temperature, width
        self.of_slots, self.of_text = nn.ModuleDict(), nn.ModuleDict()

    def prepare(self, readers: Mapping[str, ReaderShape], d_z: int) -> None:
        for name, shape in readers.items():
            self.of_slots[name] = nn.Linear(shape.d_adapter, self.width, bias=False)
            self.of_text[name] = nn.Linear(shape.d_model, self.width)

    def pair(self, seen: Seen, model: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return slots (B, M, width), tokens (B, T, width) with zeros for padding, and the texts' lengths (B,)."""
        if seen.adapted is None:
            raise RuntimeError(f"{type(self).__name__} without an adapter's output")
        embeddings, mask = seen.embeddings()
        tokens = self.of_text[model](embeddings.to(seen.latents.dtype) / seen.scale)
        return self.of_slots[model](seen.adapted()), tokens.masked_fill(~mask.unsqueeze(-1), 0.0), mask.sum(1)


class TextContrast(_Matching):
    """Lets the mean of a message's slots find the mean embedding of its text among the texts of the batch.

    `info_nce` over B texts. It keeps messages of different texts apart, the opposite of collapse; it asks for no more
    than what tells the texts of a batch from each other, so a low loss is no task skill. The gradient reaches encoder,
    codec, adapter and both maps.

    Limits: the others are those of the same rank, so two ranks are not one with both batches; a batch of one text
    teaches nothing.

    Args:
        weight: its weight over time.
        temperature: the factor under the cosines.
        width: the width in which both are compared.
    """

    observes = ("text_match",)

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        slots, tokens, lengths = self.pair(seen, model)
        loss, found = info_nce(slots.mean(1), tokens.sum(1) / lengths[:, None], self.temperature)
        return ObjectiveOutput(loss, {"text_match": found})


class TokenAlignment(_Matching):
    """Lets every slot find the mean embedding of its chunk of the text among the chunks of the batch.

    `info_nce` over B M slots, chunks as in `pooling.chunk_borders`; every slice covers the whole text. Where
    `EmbeddingReconstruction` asks for the embeddings themselves, this asks which part of which text a slot is of. The
    gradient reaches encoder, codec, adapter and both maps.

    Limits: the others are those of the same rank, so two ranks are not one with both batches; two chunks of the same
    words cannot be told apart, which bounds the loss from below.

    Args:
        weight: its weight over time.
        temperature: the factor under the cosines.
        width: the width in which both are compared.
    """

    places = True
    observes = ("slot_match",)

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        slots, tokens, lengths = self.pair(seen, model)
        chunks = torch.cat([chunk_mean(tokens, lengths, n) for n in seen.counts if n > 0], 1)
        loss, found = info_nce(slots.flatten(0, 1), chunks.flatten(0, 1), self.temperature)
        return ObjectiveOutput(loss, {"slot_match": found})
