"""Where an injector starts: the linear map that turns latents into what the model itself makes of their texts.

Slot j of n covers tokens j T / n … (j + 1) T / n of a text of T tokens, whatever the tokenizer, as in
`pooling.chunk_mean`. Its target is the mean, over these tokens, of the model's own keys and values (or embeddings).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latentwire.encoders.pooling import chunk_mean
from latentwire.injectors.rotary import RotaryPlacement, read_cache
from latentwire.lm.frozen import FrozenLM


@torch.no_grad()
def pooled_kv(lm: FrozenLM, placement: RotaryPlacement, text: str, counts: Sequence[int]) -> Tensor:
    """A text, slots of each slice -> (n_layers, sum(counts), 2 kv_heads head_dim) float32 on the CPU.

    Keys before RoPE, then values; adapters off. The text is cut at the model's positions.
    """
    head = list(lm.style.head)
    ids = list(lm.style.encode(text))[: lm.max_tokens - len(head)]
    positions = torch.arange(len(head), len(head) + len(ids))
    layers = []
    for keys, values in read_cache(lm, head + ids):
        keys = placement.undo(keys[:, :, len(head) :].float(), positions)
        both = torch.cat([keys[0], values[0, :, len(head) :].float()])  # (2 H, T, D)
        layers.append(_pooled(both.transpose(0, 1).flatten(1).cpu(), counts))
    return torch.stack(layers)


@torch.no_grad()
def pooled_embeddings(lm: FrozenLM, texts: Sequence[str], counts: Sequence[int]) -> Tensor:
    """Texts, slots of each slice -> (texts, sum(counts), d_model) float32 on the CPU."""
    return torch.stack([_pooled(lm.embed(torch.tensor(lm.style.encode(t))).float().cpu(), counts) for t in texts])


def _pooled(x: Tensor, counts: Sequence[int]) -> Tensor:
    length = torch.tensor([len(x)])
    return torch.cat([chunk_mean(x[None], length, n)[0] for n in counts if n > 0])
