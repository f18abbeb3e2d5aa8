"""Encoder on the states of all layers of a frozen model, each token with a mix of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from callbacks.ranges import NOT_EMPTY, Count, DropoutRate, Layers, Width
from latentwire.encoders.base import Overflow
from latentwire.encoders.lm_lora import LMLoRAEncoder
from latentwire.encoders.mixing import mixed_by_token
from latentwire.encoders.pooling import Pooling
from latentwire.lm.frozen import FrozenLM


class ComprExITEncoder(LMLoRAEncoder):
    """Encodes the states of all layers of a frozen model: a mix per token -> Bottleneck (after ComprExIT, 2602.03784).

        h_t = sum_l softmax_l(w_l + g_l · s~_l,t / sqrt(d)) s~_l,t,   s~ = (s - mean) / std

    s as in `LMLoRAEncoder` with rank 0, which has w and no g: what a layer has overwritten is taken, word by word, from
    one below (the paper's transmission in depth). The transmission in width, from tokens to slots by a common plan, is
    the pooling (`TransportPlan`). The gates g start at 0, so that a fresh mix is that of `encoder=lm_hidden`.

    State and limits are those of `LMLoRAEncoder`.

    Args:
        lm: the model, read with its adapters off.
        d_z: width of a latent.
        slices: names of the slices that layouts use.
        pooling: factory that is called with `d` and `slices`.
        layers: numbers of the states to mix, 0 (embeddings) to n_layers (last, normalised); None: all.
        width: width of the bottleneck.
        refiner_layers: number of transformer layers over the slots.
        heads: attention heads of the refiner.
        dropout: dropout of the refiner.
        max_tokens: longest text in tokens, its head not counted.
        overflow: what happens to a longer one, `refuse` or `count`.
        halting: whether every slot learns how many of the refiner's layers it goes through (`HaltingTransformer`).
    """

    def __init__(
        self,
        lm: FrozenLM,
        d_z: Width,
        slices: Sequence[str],
        pooling: Callable[..., Pooling],
        layers: Annotated[list[Literal[0] | Layers], NOT_EMPTY] | None = None,
        width: Width = 128,
        refiner_layers: Literal[0] | Layers = 3,
        heads: Layers = 4,
        dropout: DropoutRate = 0.0,
        max_tokens: Count = 512,
        overflow: Overflow = "refuse",
        halting: bool = False,
    ):
        super().__init__(
            lm, d_z, slices, pooling, layers, rank=0, width=width, refiner_layers=refiner_layers, heads=heads,
            dropout=dropout, max_tokens=max_tokens, overflow=overflow, halting=halting,
        )  # fmt: skip
        self.gates = nn.Parameter(torch.zeros(len(self.chosen), lm.d_model))

    def blended(self, states: Tensor) -> Tensor:
        return mixed_by_token(states, self.mean, self.std, self.mix, self.gates)
