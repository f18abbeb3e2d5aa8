"""Encoder on a frozen sentence encoder, which belongs to no family of readers: learned queries and a gate per slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Count, DropoutRate, Layers, Width
from latentwire.encoders.base import Encoder, Overflow, Tokens
from latentwire.encoders.bottleneck import Bottleneck
from latentwire.encoders.gate import gate_of
from latentwire.encoders.mixing import channel_statistics, chosen_layers, mixed
from latentwire.encoders.on_sentence import OnSentence
from latentwire.encoders.pooling import Pooling
from latentwire.encoders.slots import LatentLayout
from latentwire.lm.sentence import SentenceModel
from suite.runs.reads import Files


class STQueryEncoder(OnSentence, Encoder):
    """Encodes the token states of a frozen sentence encoder: mix of layers -> learned queries -> refiner -> gates.

    The states of the chosen layers are standardised per channel, as measured once on texts (`fit`), and mixed as
    `LMLoRAEncoder` does it. The special tokens that the model reads around a text are left out of pooling and
    statistics. A slot is scaled by a learned factor of its own, which starts at 1 (`SlotGate`).

    The frozen weights are neither parameters nor in the state (`OnSentence`).

    State: mean and std stand beside the weights; a loaded state needs no `fit`.

    Args:
        d_z: width of a latent.
        slices: names of the slices that layouts use.
        pooling: factory that is called with `d` and `slices`; its slots are learned queries (`ChunkQueries`,
            `CrossAttention`).
        source: the sentence encoder, see `SentenceModel.load`.
        layers: numbers of the states to mix, 0 (embeddings) to the number of layers; None: all.
        width: width of the bottleneck.
        refiner_layers: number of transformer layers over the slots.
        heads: attention heads of the refiner.
        dropout: dropout of the refiner.
        max_tokens: longest text in tokens, special ones not counted.
        overflow: what happens to a longer one, `refuse` or `count`.
        halting: whether every slot learns how many of the refiner's layers it goes through (`HaltingTransformer`).
    """

    places: ClassVar[tuple[str, ...]] = ("source",)
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        d_z: Width,
        slices: Sequence[str],
        pooling: Callable[..., Pooling],
        source: str,
        layers: Annotated[list[Literal[0] | Layers], NOT_EMPTY] | None = None,
        width: Width = 128,
        refiner_layers: Literal[0] | Layers = 2,
        heads: Layers = 4,
        dropout: DropoutRate = 0.0,
        max_tokens: Count = 254,
        overflow: Overflow = "refuse",
        halting: bool = False,
    ):
        super().__init__(d_z, max_tokens, overflow)
        self.stand_on(source, SentenceModel.load(source))
        most = self.sentence.max_tokens
        if max_tokens > most:
            found, expected = str(max_tokens), f"the {most} tokens that {source} reads beside its special ones"
            raise UserError("encoder.max_tokens", found, expected, f"set encoder.max_tokens={most} or less")
        self.chosen = chosen_layers(layers, self.sentence.n_layers)
        wide = self.sentence.width
        self.mix = nn.Parameter(torch.zeros(len(self.chosen)))
        self.register_buffer("mean", torch.zeros(len(self.chosen), wide))
        self.register_buffer("std", torch.zeros(len(self.chosen), wide))
        self.bottleneck = Bottleneck(wide, d_z, slices, pooling, width, refiner_layers, heads, dropout, halting)
        self.gate = gate_of(self.bottleneck.pooling, len(self.bottleneck.slices), "")

    @staticmethod
    def input_files(arguments: Mapping[str, Any]) -> Files:
        """Return the files of the sentence encoder; see `suite.runs.reads`."""
        return SentenceModel.files(str(arguments["source"]), "source")

    def ids(self, text: str) -> Sequence[int]:
        return self.sentence.ids(text)

    def all_ids(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        return self.sentence.all_ids(texts)

    def lost(self, text: str) -> tuple[str, ...]:
        """Return the runs of characters of a text that its ids do not hold; see `SentenceModel.lost`."""
        return self.sentence.lost(text)

    @torch.no_grad()
    def fit(self, texts: Sequence[str], layout: LatentLayout) -> None:
        """Measure mean and std of the states on texts."""
        mean, std = channel_statistics(self._states(self.tokenize([text]))[:, 0] for text in texts)
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, tokens: Tokens, layout: LatentLayout) -> Tensor:
        states = self._states(tokens).to(self.mix)
        z = self.bottleneck(mixed(states, self.mean, self.std, self.mix), tokens.mask, layout)
        return self.gate(z, self.bottleneck.counts(layout))

    def _states(self, tokens: Tokens) -> Tensor:
        return self.sentence.states(tokens.ids, tokens.mask, self.chosen)
