"""Encoder on what a text means and what it says: a semantic anchor in front of token embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from callbacks.ranges import NOT_EMPTY, Count, DropoutRate, Layers, Width
from latentwire.encoders.anchor import Anchor, SentenceAnchor, StateAnchor
from latentwire.encoders.base import Encoder, Overflow, Tokens
from latentwire.encoders.bottleneck import Bottleneck
from latentwire.encoders.pooling import Pooling
from latentwire.encoders.slots import LatentLayout
from latentwire.encoders.states import refuse_model
from latentwire.encoders.transformer import Transformer
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.sentence import SentenceModel
from suite.runs.reads import Files


class InterlinguaEncoder(Encoder):
    """Encodes a semantic anchor and token embeddings: [A a, E e_1 … E e_T] -> alignment transformer -> Bottleneck.

    a: one vector for the whole text, made by the model itself (`StateAnchor`) or by a sentence encoder
    (`SentenceAnchor`); e_t: the model's input embeddings over their RMS in the vocabulary, as `TokenEncoder` has them.
    The transformer brings both into one space; the slots are pooled from the places of the tokens, which have read the
    anchor. Two objectives belong to it: `semantic_anchor`, by which a message as a whole stays where its text is, and
    `token_alignment`, by which a slot stays with its part of the text.

    Limits: embeddings are those of one model, the encoder's; a reader's own come in by the objectives alone, for each
    reader its own.

    State: mean and std stand beside the weights; a loaded state needs no `fit`.

    Args:
        lm: the model.
        d_z: width of a latent.
        slices: names of the slices that layouts use.
        pooling: factory that is called with `d` and `slices`.
        anchor_source: a frozen sentence encoder that makes the anchor, see `SentenceModel.load`; None: the model does.
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

    places: ClassVar[tuple[str, ...]] = ("anchor_source",)
    lm: FrozenLM
    scale: Tensor

    def __init__(
        self,
        lm: FrozenLM,
        d_z: Width,
        slices: Sequence[str],
        pooling: Callable[..., Pooling],
        anchor_source: str | None = None,
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
        anchor = (
            StateAnchor(lm, anchor_layers) if anchor_source is None else SentenceAnchor(anchor_source, anchor_layers)
        )
        self.anchor: Anchor = anchor
        table = lm.model.get_input_embeddings().weight
        self.register_buffer("scale", table.detach().float().pow(2).mean().rsqrt().cpu())
        self.of_anchor, self.of_tokens = nn.Linear(anchor.width, width), nn.Linear(lm.d_model, width)
        self.align = Transformer(width, layers, heads, dropout)
        self.bottleneck = Bottleneck(width, d_z, slices, pooling, width, refiner_layers, heads, dropout, halting)

    @staticmethod
    def input_files(arguments: Mapping[str, Any]) -> Files:
        """Return the files of the sentence encoder, where there is one; see `suite.runs.reads`."""
        source = arguments.get("anchor_source")
        return {} if source is None else SentenceModel.files(str(source), "anchor_source")

    def ids(self, text: str) -> Sequence[int]:
        return self.lm.style.encode(text)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokenise on the CPU, for the anchor as well. Raises UserError for what either cannot read."""
        return replace(super().tokenize(texts), beside=self.anchor.beside(texts))

    def fit(self, texts: Sequence[str], layout: LatentLayout) -> None:
        """Measure mean and std of the anchor's states on texts."""
        self.anchor.measure([self.tokenize([text]) for text in texts])

    def forward(self, tokens: Tokens, layout: LatentLayout) -> Tensor:
        embedded = self.lm.embed(tokens.ids).detach().to(self.scale) * self.scale
        x = torch.cat([self.of_anchor(self.anchor(tokens)).unsqueeze(1), self.of_tokens(embedded)], 1)
        mask = torch.cat([tokens.mask.new_ones(len(x), 1), tokens.mask], 1)
        return self.bottleneck(self.align(x, mask)[:, 1:], tokens.mask, layout)
