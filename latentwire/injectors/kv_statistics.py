"""How large a model's own keys and values are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from callbacks.errors import UserError
from latentwire.injectors.rotary import RotaryPlacement
from latentwire.lm.frozen import FrozenLM


@dataclass(frozen=True)
class KVStatistics:
    """Holds mean and standard deviation over the tokens of real text, (n_layers, 2, kv_heads, head_dim) float32, CPU.

    Index 0 of the second axis: keys before RoPE; 1: values. The head (BOS) is read but not counted: as an attention
    sink it is unlike text.
    """

    mean: Tensor
    std: Tensor


def unmeasured_kv(lm: FrozenLM) -> KVStatistics:
    """Return zeros in the place of statistics that a saved state will bring."""
    shape = (lm.n_layers, 2, *lm.kv_shape)
    return KVStatistics(torch.zeros(shape), torch.zeros(shape))


@torch.no_grad()
def measure_kv(lm: FrozenLM, placement: RotaryPlacement, texts: Sequence[str]) -> KVStatistics:
    """Measure texts, read one by one as `RotaryPlacement.of_text` does.

    Raises:
        UserError: fewer than two tokens.
    """
    shape = (lm.n_layers, 2, *lm.kv_shape)
    count, total, square = 0, torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for text in texts:
        tokens = 0
        for layer, (keys, values) in enumerate(placement.of_text(text)):
            both = torch.stack([keys[0], values[0]]).double().cpu()  # (2, H, T, D)
            total[layer] += both.sum(2)
            square[layer] += both.pow(2).sum(2)
            tokens = both.shape[2]
        count += tokens
    if count < 2:
        raise UserError("texts to measure keys on", f"{count} tokens", "2 at least", "set wire.measured_texts=256")
    mean = total / count
    std = (square / count - mean.pow(2)).clamp(min=0).sqrt()
    return KVStatistics(mean.float(), std.float())
