"""Attention with a bias on cached keys, and what an attention is asked, by the attention interface of transformers.

Every family that goes through the interface calls the function registered here with its queries and keys as they meet,
after any rotation and normalisation; no family is known by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from callbacks.errors import UserError

NAME = "latentwire_biased"


@dataclass(frozen=True)
class Asked:
    """Holds what one layer's attention was given.

    Attributes:
        queries: (B, heads, T, width).
        keys: (B, kv_heads, T, width).
        values: (B, kv_heads, T, width).
        scaling: factor on the products of queries and keys.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    scaling: float


@dataclass
class _Watch:
    bias: Sequence[Tensor] | None = None  # (B, kv_heads, M) by layer
    start: int = 0  # column of the first biased key
    asked: dict[int, Asked] = field(default_factory=dict)
    keep: bool = False


_WATCH: ContextVar[_Watch] = ContextVar("watch")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,  # the interface passes on whatever a family knows
) -> tuple[Tensor, Tensor]:
    watch, layer = _WATCH.get(), int(module.layer_idx)  # type: ignore[arg-type]
    if softcap is not None or s_aux is not None:
        raise UserError(
            f"attention of layer {layer}", "a soft cap on its logits, or a sink", "plain softmax attention",
            "leave out ~baselines.kv_compaction",
        )  # fmt: skip
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if watch.keep:
        watch.asked[layer] = Asked(query, key, value, scaling)
    groups = query.shape[1] // key.shape[1]
    scores = scaling * query @ key.repeat_interleave(groups, 1).transpose(2, 3)
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[2]]
    if watch.bias is not None:
        bias = watch.bias[layer].to(scores).repeat_interleave(groups, 1)[:, :, None]
        end = watch.start + bias.shape[-1]
        biased = scores[..., watch.start : end] + bias
        scores = torch.cat([scores[..., : watch.start], biased, scores[..., end:]], -1)
    weights = scores.float().softmax(-1).to(value)
    return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, eager_mask)


@contextmanager
def _watched(decoder: Any, watch: _Watch) -> Iterator[_Watch]:
    config = decoder.config
    before = config._attn_implementation
    token = _WATCH.set(watch)
    config._attn_implementation = NAME
    try:
        yield watch
    finally:
        config._attn_implementation = before
        _WATCH.reset(token)


def biased(decoder: Any, bias: Sequence[Tensor] | None, start: int) -> AbstractContextManager[Any]:
    """Add a bias to the logits of cached keys within the block; without one nothing changes.

    Args:
        decoder: the stack of layers.
        bias: (B, kv_heads, M) per layer, on the keys in columns start … start + M - 1.
        start: number of columns before.
    """
    return nullcontext() if bias is None else _watched(decoder, _Watch(bias, start))


@torch.no_grad()
def asked(decoder: Any, ids: Tensor, mask: Tensor) -> list[Asked]:
    """Read ids (B, T) at positions 0 … T - 1; return what every layer's attention was given.

    Args:
        decoder: the stack of layers, adapters off.
        ids: token ids, padded on the right, no more than the model's positions.
        mask: (B, T), true on tokens.

    Raises:
        UserError: the model's attention does not go through the interface, or is no plain softmax attention.
    """
    with _watched(decoder, _Watch(keep=True)) as watch:
        decoder(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    layers = int(decoder.config.num_hidden_layers)
    if sorted(watch.asked) != list(range(layers)):
        raise UserError(
            f"attention of {type(decoder).__name__}",
            f"{len(watch.asked)} of {layers} layers go through the attention interface",
            "all layers",
            "leave out ~baselines.kv_compaction",
        )
    return [watch.asked[i] for i in range(layers)]
