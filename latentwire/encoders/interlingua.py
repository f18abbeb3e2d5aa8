"""Encoder on what a text means and what it says: a semantic anchor in front of token embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from callbacks.ranges import NOT_EMPTY, Count, DropoutRate, Layers, Width
from latentwire.encoders.base import Encoder, Overflow, Tokens
from latentwire.encoders.bottleneck import Bottleneck
from latentwire.encoders.mixing import channel_statistics, chosen_layers, standardised
from latentwire.encoders.pooling import Pooling
from latentwire.encoders.said import Saying
from latentwire.encoders.slots import LatentLayout
from latentwire.encoders.states import frozen_states, refuse_model
from latentwire.encoders.transformer import Transformer
from latentwire.lm.frozen import FrozenLM


class StateAnchor(Saying):
    """Makes the semantic anchor of a text, the mean over its tokens and some layers of a model's standardised states.

    Nothing in it is trained: it is what the frozen model makes of the text as a whole. It says `anchor` (B, d_model).

    Args:
        lm: the model, read with its adapters off.
        layers: numbers of the states, 0 (embeddings) to n_layers; None: all.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, lm: FrozenLM, layers: Sequence[int] | None):
        super().__init__()
        self.lm, self.chosen = lm, chosen_layers(layers, lm.n_layers, "anchor_layers")
        self.says = {"anchor": lm.d_model}
        self.register_buffer("mean", torch.zeros(len(self.chosen), lm.d_model))
        self.register_buffer("std", torch.zeros(len(self.chosen), lm.d_model))

    @torch.no_grad()
    def measure(self, texts: Sequence[Tokens]) -> None:
        """Measure mean and std of the states on texts, each alone in its batch."""
        device = self.mean.device
        mean, std = channel_statistics(frozen_states(self.lm, text.to(device), self.chosen)[:, 0] for text in texts)
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, tokens: Tokens) -> Tensor:
        """Return the anchors (B, d_model) of texts, without gradient."""
        with torch.no_grad():
            states = frozen_states(self.lm, tokens, self.chosen).to(self.mean)
            found = standardised(states, self.mean, self.std).mean(0).masked_fill(~tokens.mask.unsqueeze(2), 0.0)
            anchor = found.sum(1) / tokens.mask.sum(1, keepdim=True)
        self.say("anchor", anchor)
        return anchor


class InterlinguaEncoder(Encoder):
    """Encodes a semantic anchor and token embeddings: [A a, E e_1 … E e_T] -> alignment transformer -> Bottleneck.

    a: `StateAnchor`, one vector for the whole text; e_t: the model's input embeddings over their RMS in the vocabulary,
    as `TokenEncoder` has them. The transformer brings both into one space; the slots are pooled from the places of the
    tokens, which have read the anchor. Two objectives belong to it: `semantic_anchor`, by which a message as a whole
    stays where its text is, and `token_alignment`, by which a slot stays with its part of the text.

    Limits: embeddings and anchor are those of one model, the encoder's; a reader's own embeddings come in by the
    objectives alone, for each reader its own.

    State: mean and std stand beside the weights; a loaded state needs no `fit`.

    Args:
        lm: the model.
        d_z: width of a latent.
        slices: names of the slices that layouts use.
        pooling: factory that is called with `d` and `slices`.
        anchor_layers: numbers of the states that the anchor is the mean of; None: all.
        width: width of the layers.
        layers: number of layers of the alignment transformer.
        refiner_layers: number of transformer layers over the slots.
        heads: attention heads.
        dropout: dropout of all layers.
        max_tokens: longest text in tokens, its head not counted.
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
        anchor_layers: Annotated[list[Literal[0] | Layers], NOT_EMPTY] | None = None,
        width: Width = 128,
        layers: Layers = 2,
        refiner_layers: Literal[0] | Layers = 2,
        heads: Layers = 4,
        dropout: DropoutRate = 0.0,
        max_tokens: Count = 512,
        overflow: Overflow = "refuse",
        halting: bool = False,
    ):
        super().__init__(d_z, max_tokens, overflow)
        self.lm = lm
        refuse_model(lm, max_tokens)
        self.anchor = StateAnchor(lm, anchor_layers)
        table = lm.model.get_input_embeddings().weight
        self.register_buffer("scale", table.detach().float().pow(2).mean().rsqrt().cpu())
        self.of_anchor, self.of_tokens = nn.Linear(lm.d_model, width), nn.Linear(lm.d_model, width)
        self.align = Transformer(width, layers, heads, dropout)
        self.bottleneck = Bottleneck(width, d_z, slices, pooling, width, refiner_layers, heads, dropout, halting)

    def ids(self, text: str) -> Sequence[int]:
        return self.lm.style.encode(text)

    def fit(self, texts: Sequence[str], layout: LatentLayout) -> None:
        """Measure mean and std of the anchor's states on texts."""
        self.anchor.measure([self.tokenize([text]) for text in texts])

    def forward(self, tokens: Tokens, layout: LatentLayout) -> Tensor:
        embedded = self.lm.embed(tokens.ids).detach().to(self.scale) * self.scale
        x = torch.cat([self.of_anchor(self.anchor(tokens)).unsqueeze(1), self.of_tokens(embedded)], 1)
        mask = torch.cat([tokens.mask.new_ones(len(x), 1), tokens.mask], 1)
        return self.bottleneck(self.align(x, mask)[:, 1:], tokens.mask, layout)
