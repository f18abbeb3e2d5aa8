"""Where an injector starts: the linear map that turns latents into what the model itself makes of their texts.

Slot j of n covers tokens j T / n … (j + 1) T / n of a text of T tokens, whatever the tokenizer, as in
`pooling.chunk_mean`. Its target is the mean, over these tokens, of the model's own keys and values (or embeddings).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latentwire.encoders.pooling import chunk_mean
from latentwire.injectors.rotary import RotaryPlacement
from latentwire.lm.frozen import FrozenLM


@torch.no_grad()
def pooled_kv(lm: FrozenLM, placement: RotaryPlacement, text: str, counts: Sequence[int]) -> Tensor:
    """Return a text's keys (before RoPE) and values, pooled; (n_layers, sum(counts), 2 kv_heads head_dim).

    Adapters are off, the text is cut at the model's positions, the result is float32 on the CPU.

    Args:
        lm: the model.
        placement: its rotary embedding.
        text: the text.
        counts: number of slots of each slice.
    """
    layers = []
    for keys, values in placement.of_text(text):
        both = torch.cat([keys[0], values[0]])  # (2 H, T, D)
        layers.append(_pooled(both.transpose(0, 1).flatten(1).cpu(), counts))
    return torch.stack(layers)


@torch.no_grad()
def pooled_kv_of_batch(placement: RotaryPlacement, ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Tensor:
    """Return what `pooled_kv` does of texts that are ids already; (n_layers, B, sum(counts), 2 kv_heads head_dim).

    Args:
        placement: the model's rotary embedding.
        ids: (B, T) the model's ids of the texts, padded on the right.
        mask: (B, T), true on ids.
        counts: number of slots of each slice.
    """
    lengths, layers = mask.sum(1), []
    for keys, values in placement.of_batch(ids, mask):
        both = torch.cat([keys, values], 1).transpose(1, 2).flatten(2)  # (B, T, 2 H D)
        both = both.masked_fill(~mask.to(both.device).unsqueeze(-1), 0.0)
        layers.append(torch.cat([chunk_mean(both, lengths.to(both.device), n) for n in counts if n > 0], 1))
    return torch.stack(layers)


@torch.no_grad()
def pooled_embeddings(lm: FrozenLM, texts: Sequence[str], counts: Sequence[int]) -> Tensor:
    """Return the texts' embeddings, pooled to slots of each slice; (texts, sum(counts), d_model) float32, CPU."""
    return torch.stack([_pooled(lm.embed(torch.tensor(lm.style.encode(t))).float().cpu(), counts) for t in texts])


@torch.no_grad()
def pooled_embeddings_of_batch(lm: FrozenLM, ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Tensor:
    """Return what `pooled_embeddings` does of texts that are ids already, on the model's device.

    Args:
        lm: the model.
        ids: (B, T) the model's ids of the texts, padded on the right.
        mask: (B, T), true on ids.
        counts: number of slots of each slice.
    """
    embedded = lm.embed(ids).float()
    real = mask.to(embedded.device)
    embedded = embedded.masked_fill(~real.unsqueeze(-1), 0.0)
    return torch.cat([chunk_mean(embedded, real.sum(1), n) for n in counts if n > 0], 1)


def _pooled(x: Tensor, counts: Sequence[int]) -> Tensor:
    length = torch.tensor([len(x)])
    return torch.cat([chunk_mean(x[None], length, n)[0] for n in counts if n > 0])
