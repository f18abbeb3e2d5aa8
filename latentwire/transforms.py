"""Maps of a text's embeddings onto what a frozen model is used to: each a function of tensors, memory-safe by parts.

They are what systems put between a projector and a language model so that its output looks like embeddings, applied
here to embeddings themselves, where anything but the identity can only lose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from latentwire.lm.vocabulary import TINY, nearest

Parts = Callable[[], Iterator[Tensor]]  # the table of all embeddings (V, d), in parts, as often as it is asked for


def rms(x: Tensor) -> Tensor:
    """Return the root mean square over the last axis, kept: (…, d) to (…, 1)."""
    return x.pow(2).mean(-1, keepdim=True).sqrt()


def match_rms(x: Tensor, target: float) -> Tensor:
    """Give every vector of (…, d) the same RMS: what LayerNorm with a scale does to an adapter's output."""
    return x * (target / rms(x).clamp(min=TINY))


def match_moments(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Shift and scale channels of (n, d) so that their mean and standard deviation are the given ones, (d,) each."""
    centred = x - x.mean(0)
    return centred / x.std(0, correction=0).clamp(min=TINY) * std + mean


def moments(parts: Parts) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (d,), standard deviation (d,) and covariance (d, d) of a table in one pass, float32.

    Sums are in float64; memory is that of one part and of d squared.
    """
    total: Any = 0.0
    second: Any = 0.0
    count = 0
    for part in parts():
        x = part.double()
        total, second, count = total + x.sum(0), second + x.T @ x, count + len(x)
    mean = total / count
    covariance = second / count - torch.outer(mean, mean)
    return mean.float(), covariance.diagonal().clamp(min=0).sqrt().float(), covariance.float()


def whitened(x: Tensor, mean: Tensor, covariance: Tensor, scale: float, floor: float = 1e-6) -> Tensor:
    """Whiten (…, d) with a covariance (ZCA), then scale to an RMS of `scale` over the table's own spread.

        y = scale * C^(-1/2) (x - mean)

    Args:
        x: the vectors.
        mean: (d,).
        covariance: (d, d); eigenvalues below `floor` times the largest count as that.
        scale: RMS of the result, where x is spread as the table.
        floor: see `covariance`.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    values = values.clamp(min=float(values[-1]) * floor)
    root = (vectors * values.rsqrt()) @ vectors.T
    return (scale * (x.double() - mean.double()) @ root).to(x.dtype)


def on_manifold(x: Tensor, parts: Parts, k: int, temperature: float = 0.05) -> Tensor:
    """Replace every vector (n, d) by the mean of its k nearest embeddings (cosine), weighed by softmax of nearness.

        y_i = Σ_j softmax_j(cos(x_i, e_j) / temperature) e_j,   j over the k nearest

    The table passes by in parts twice; memory is that of one part, of n times its rows, and of n·k rows.

    Args:
        x: the vectors.
        parts: the table.
        k: number of neighbours; 1 is the nearest token.
        temperature: of the weights.
    """
    numbers, cosines = nearest(x, parts(), k)
    found = _rows(numbers, parts).to(x.device)
    weights = (cosines.to(x.device) / temperature).softmax(-1).to(x)
    return (weights[..., None] * found.to(x)).sum(-2)


def _rows(numbers: Tensor, parts: Parts) -> Tensor:
    """Return the rows of a table by number, (…, d), from its parts."""
    found: Tensor | None = None
    start = 0
    for part in parts():
        if found is None:
            found = part.new_zeros(*numbers.shape, part.shape[-1])
        here = (numbers >= start) & (numbers < start + len(part))
        found[here.to(found.device)] = part[(numbers[here] - start).to(part.device)]
        start += len(part)
    if found is None:
        raise ValueError("a table without rows")
    return found


def soft_codebook(x: Tensor, parts: Parts, temperature: float) -> Tensor:
    """Replace every vector (n, d) by the softmax mean of all embeddings, by cosine.

        y_i = Σ_v softmax_v(cos(x_i, e_v) / temperature) e_v

    Computed online as flash attention does (Milakov & Gimelshein, arXiv 1805.02867): running maximum and sums over the
    parts of the table, so memory does not grow with the vocabulary.

    Args:
        x: the vectors.
        parts: the table.
        temperature: of the weights; towards 0 the nearest token.
    """
    unit = normalize(x.float(), dim=-1, eps=TINY)
    top = x.new_full((len(x), 1), float("-inf"), dtype=torch.float32)
    weight, total = torch.zeros_like(top), torch.zeros_like(unit)
    for part in parts():
        rows = part.to(x.device).float()
        logits = unit @ normalize(rows, dim=-1, eps=TINY).T / temperature
        new = torch.maximum(top, logits.max(-1, keepdim=True).values)
        grown, old = (logits - new).exp(), (top - new).exp()
        weight, total, top = weight * old + grown.sum(-1, keepdim=True), total * old + grown @ rows, new
    return (total / weight).to(x.dtype)
