"""Encoder on the language model's own token embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from callbacks.ranges import Count, DropoutRate, Layers, Width
from latentwire.encoders.base import Encoder, Overflow, Tokens
from latentwire.encoders.bottleneck import Bottleneck
from latentwire.encoders.pooling import Pooling
from latentwire.encoders.slots import LatentLayout
from latentwire.encoders.transformer import Transformer
from latentwire.lm.frozen import FrozenLM


class TokenEncoder(Encoder):
    """Encodes frozen input embeddings, over their RMS in the vocabulary: transformer layers -> Bottleneck.

    The embeddings stay the language model's: they are no parameter and in no checkpoint. One factor scales them
    all, so a token keeps its magnitude relative to others.

    Args:
        lm: language model whose tokenizer and embeddings are used.
        d_z: width of a latent.
        slices: names of the slices that layouts use.
        pooling: factory that is called with `d` and `slices`.
        width: width of the layers.
        layers: number of transformer layers over the tokens, with rotary positions. 0 leaves tokens without context:
            pooling by attention then sees a bag of words unless it adds positions.
        refiner_layers: number of transformer layers over the slots.
        heads: attention heads.
        dropout: dropout of all layers.
        max_tokens: longest text, in tokens.
        overflow: what happens to a longer one, `refuse` or `count`.
        halting: whether every slot learns how many of the refiner's layers it goes through (`HaltingTransformer`).
    """

    lm: FrozenLM
    scale: Tensor

    def __init__(
        self,
        lm: FrozenLM,
        d_z: Width,
        slices: Sequence[str],
        pooling: Callable[..., Pooling],
        width: Width = 128,
        layers: Literal[0] | Layers = 2,
        refiner_layers: Literal[0] | Layers = 2,
        heads: Layers = 4,
        dropout: DropoutRate = 0.0,
        max_tokens: Count = 512,
        overflow: Overflow = "refuse",
        halting: bool = False,
    ):
        super().__init__(d_z, max_tokens, overflow)
        self.lm = lm
        table = lm.model.get_input_embeddings().weight
        self.register_buffer("scale", table.detach().float().pow(2).mean().rsqrt().cpu())
        self.project = torch.nn.Linear(lm.d_model, width)
        self.layers = Transformer(width, layers, heads, dropout)
        self.bottleneck = Bottleneck(width, d_z, slices, pooling, width, refiner_layers, heads, dropout, halting)

    def ids(self, text: str) -> Sequence[int]:
        return self.lm.style.encode(text)

    def forward(self, tokens: Tokens, layout: LatentLayout) -> Tensor:
        embedded = self.lm.embed(tokens.ids).detach().to(self.scale) * self.scale
        return self.bottleneck(self.layers(self.project(embedded), tokens.mask), tokens.mask, layout)
