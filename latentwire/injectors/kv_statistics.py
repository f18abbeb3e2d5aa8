"""How large a model's own keys and values are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from callbacks.errors import UserError
from latentwire.injectors.rotary import RotaryPlacement, read_cache
from latentwire.lm.frozen import FrozenLM


@dataclass(frozen=True)
class KVStatistics:
    """Mean and standard deviation over the tokens of real text, (n_layers, 2, kv_heads, head_dim) float32 on the
    CPU.

    Index 0 of the second axis: keys before RoPE; 1: values. The head (BOS) is read but not counted: as an
    attention sink it is unlike text.
    """

    mean: Tensor
    std: Tensor


@torch.no_grad()
def measure_kv(lm: FrozenLM, placement: RotaryPlacement, texts: Sequence[str]) -> KVStatistics:
    """Reads the texts, one by one, each behind the head and cut at the model's positions, adapters off.

    Raises:
        UserError: fewer than two tokens, or layers with caches of different shapes.
    """
    head = list(lm.style.head)
    shape = (lm.n_layers, 2, *lm.kv_shape)
    count, total, square = 0, torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for text in texts:
        ids = list(lm.style.encode(text))[: lm.max_tokens - len(head)]
        if not ids:
            continue
        positions = torch.arange(len(head), len(head) + len(ids))
        for layer, (keys, values) in enumerate(read_cache(lm, head + ids)):
            if keys.shape[1:] != (lm.kv_shape[0], len(head) + len(ids), lm.kv_shape[1]) or keys.shape != values.shape:
                raise UserError(
                    f"deep_prefix on {lm.name}",
                    f"a cache of {tuple(keys.shape)} and {tuple(values.shape)} in layer {layer}",
                    f"(1, {lm.kv_shape[0]}, tokens, {lm.kv_shape[1]}) in every layer",
                    "use injector=soft_prefix with this model",
                )
            keys = placement.undo(keys[:, :, len(head) :].float(), positions)
            both = torch.stack([keys[0], values[0, :, len(head) :].float()]).double().cpu()  # (2, H, T, D)
            total[layer] += both.sum(2)
            square[layer] += both.pow(2).sum(2)
        count += len(ids)
    if count < 2:
        raise UserError("texts to measure keys on", f"{count} tokens", "2 at least", "give training texts")
    mean = total / count
    std = (square / count - mean.pow(2)).clamp(min=0).sqrt()
    return KVStatistics(mean.float(), std.float())
