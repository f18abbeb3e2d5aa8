"""The states of a frozen model's layers as one sequence: standardised per channel, then mixed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from callbacks.errors import UserError

EPS = 1e-6


def chosen_layers(layers: Sequence[int] | None, count: int, key: str = "layers") -> list[int]:
    """Return the numbers of the states to mix, 0 (embeddings) to `count` (last layer); None: all.

    Raises:
        UserError: none, or one that the model does not have.
    """
    chosen = list(range(count + 1)) if layers is None else list(layers)
    if not chosen or any(not 0 <= layer <= count for layer in chosen):
        raise UserError(f"encoder.{key}", str(layers), f"numbers from 0 to {count}", f"set encoder.{key}=null")
    return chosen


def channel_statistics(states: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (layers, width) of every channel over all tokens, in float64 on the CPU.

    Args:
        states: states (layers, tokens, width) of one text after the other.

    Raises:
        UserError: fewer than two tokens.
    """
    count, total, square = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for each in states:
        wide = each.double().cpu()
        count += wide.shape[1]
        total = total + wide.sum(1)
        square = square + wide.pow(2).sum(1)
    if count < 2:
        raise UserError("texts to measure on", f"{count} tokens", "2 at least", "set wire.measured_texts=256")
    mean = total / count
    return mean, (square / count - mean.pow(2)).clamp(min=EPS).sqrt()


def mixed(states: Tensor, mean: Tensor, std: Tensor, weights: Tensor) -> Tensor:
    """Return sum_l softmax(weights)_l (states_l - mean_l) / std_l, (B, T, width); ELMo's mix (Peters et al., 2018).

    Args:
        states: (layers, B, T, width); changed in place where nobody needs a gradient of them.
        mean: (layers, width).
        std: (layers, width).
        weights: (layers,).
    """
    return torch.einsum("l,lbtd->btd", weights.softmax(0), standardised(states, mean, std))


def mixed_by_token(states: Tensor, mean: Tensor, std: Tensor, weights: Tensor, gates: Tensor) -> Tensor:
    """Return sum_l softmax_l(weights_l + gates_l · s_l,t / sqrt(width)) s_l,t, (B, T, width), of standardised states s.

    Args:
        states: (layers, B, T, width); changed in place where nobody needs a gradient of them.
        mean: (layers, width).
        std: (layers, width).
        weights: (layers,).
        gates: (layers, width).
    """
    s = standardised(states, mean, std)
    scores = torch.einsum("ld,lbtd->lbt", gates / gates.shape[1] ** 0.5, s) + weights[:, None, None]
    return torch.einsum("lbt,lbtd->btd", scores.softmax(0), s)


def standardised(states: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (states - mean) / std per layer and channel; in place where nobody needs a gradient of the states."""
    if float(std[0, 0]) == 0:
        raise RuntimeError("encoder not fitted: call fit(texts) first, or load a state")
    if states.requires_grad:
        return (states - mean[:, None, None]) / std[:, None, None]
    return (states - mean[:, None, None]).div_(std[:, None, None])  # what nobody needs again is not copied
