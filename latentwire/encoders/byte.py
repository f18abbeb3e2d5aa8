"""Encoder from scratch on UTF-8 bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from callbacks.ranges import Count, DropoutRate, Layers, Width
from latentwire.encoders.base import Encoder, Overflow, Tokens
from latentwire.encoders.bottleneck import Bottleneck
from latentwire.encoders.gate import gate_of
from latentwire.encoders.pooling import Pooling
from latentwire.encoders.slots import LatentLayout
from latentwire.encoders.transformer import Transformer


class ByteEncoder(Encoder):
    """Encodes UTF-8 bytes without a language model: embedding -> transformer with rotary positions -> Bottleneck.

    With `overflow=count` a cut may fall inside a character; ids are bytes, nothing is decoded here.

    Args:
        d_z: width of a latent.
        slices: names of the slices that layouts use.
        pooling: factory that is called with `d` and `slices`.
        width: width of the layers.
        layers: number of transformer layers over the bytes.
        refiner_layers: number of transformer layers over the slots.
        heads: attention heads.
        dropout: dropout of all layers.
        max_tokens: longest text, in bytes.
        overflow: what happens to a longer one, `refuse` or `count`.
        gate: whether a slot is scaled by a learned factor of its own, which starts at 1 (`SlotGate`); for poolings with
            learned queries.
        halting: whether every slot learns how many of the refiner's layers it goes through (`HaltingTransformer`).
    """

    def __init__(
        self,
        d_z: Width,
        slices: Sequence[str],
        pooling: Callable[..., Pooling],
        width: Width = 128,
        layers: Literal[0] | Layers = 3,
        refiner_layers: Literal[0] | Layers = 2,
        heads: Layers = 4,
        dropout: DropoutRate = 0.0,
        max_tokens: Count = 2048,
        overflow: Overflow = "refuse",
        gate: bool = False,
        halting: bool = False,
    ):
        super().__init__(d_z, max_tokens, overflow)
        self.embedding = nn.Embedding(256, width)
        self.layers = Transformer(width, layers, heads, dropout)
        self.bottleneck = Bottleneck(width, d_z, slices, pooling, width, refiner_layers, heads, dropout, halting)
        self.gate = None
        if gate:
            otherwise = ", or encoder.gate=false"
            self.gate = gate_of(self.bottleneck.pooling, len(self.bottleneck.slices), otherwise)

    def ids(self, text: str) -> Sequence[int]:
        return text.encode("utf-8")

    def forward(self, tokens: Tokens, layout: LatentLayout) -> Tensor:
        z: Tensor = self.bottleneck(self.layers(self.embedding(tokens.ids), tokens.mask), tokens.mask, layout)
        return z if self.gate is None else self.gate(z, self.bottleneck.counts(layout))
