"""Latents that are read between layers: gated cross-attention on the stream of a frozen decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6


@dataclass(frozen=True)
class LayerRead:
    """Holds what the stream reads behind one layer.

        x <- x + scale * O concat_h softmax(Q_h n(x) K_h^T / sqrt(D)) V_h,      n(x) = x / rms(x)

    Attributes:
        layer: the layer, from 0.
        keys: (B, H, M, D).
        values: (B, H, M, D).
        query: Q, (H D, d_hidden).
        out: O, (d_hidden, H D).
        scale: the factor of what is read, ().
    """

    layer: int
    keys: Tensor
    values: Tensor
    query: Tensor
    out: Tensor
    scale: Tensor

    def map(self, rows: Callable[[Tensor], Tensor], weights: Callable[[Tensor], Tensor]) -> LayerRead:
        """Return the same with functions applied to what has a row per example, and to what all examples share."""
        return replace(
            self,
            keys=rows(self.keys),
            values=rows(self.values),
            query=weights(self.query),
            out=weights(self.out),
            scale=weights(self.scale),
        )

    def alone(self) -> Tensor:
        """Return what is added where a latent alone is attended to, (B, M, d_hidden)."""
        return self.scale * F.linear(self.values.transpose(1, 2).flatten(2), self.out)

    def added(self, x: Tensor) -> Tensor:
        """Return what is added to a stream (B, T, d_hidden), in its dtype; computed in float32."""
        keys, values, query, out, scale = (
            t.to(x.device, torch.promote_types(t.dtype, torch.float32))
            for t in (self.keys, self.values, self.query, self.out, self.scale)
        )
        y = x.to(keys.dtype)
        y = y * (y.pow(2).mean(-1, keepdim=True) + EPS).rsqrt()
        q = F.linear(y, query).unflatten(-1, (keys.shape[1], -1)).transpose(1, 2)
        read = F.scaled_dot_product_attention(q, keys, values).transpose(1, 2).flatten(2)
        return (scale * F.linear(read, out)).to(x.dtype)


@contextmanager
def read_between(decoder: Any, layers: Sequence[str], reads: Sequence[LayerRead] | None, head: int) -> Iterator[None]:
    """Let the stream read latents within the block, in every forward pass.

    Args:
        decoder: the stack of layers.
        layers: names of the layers within it.
        reads: what is read, by layer; None: nothing.
        head: the number of columns of the first pass that read nothing: BOS, on which attention leans, stays as it is.
    """
    handles = []
    for read in reads or ():
        handles.append(decoder.get_submodule(layers[read.layer]).register_forward_hook(_hook(read, head)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(read: LayerRead, head: int) -> Callable[[Any, Any, Any], Any]:
    skip = head

    def hook(_module: Any, _given: Any, out: Any) -> Any:
        nonlocal skip
        x = out[0] if isinstance(out, tuple) else out
        moved = torch.cat([x[:, :skip], x[:, skip:] + read.added(x[:, skip:])], 1)
        skip = 0
        return (moved, *out[1:]) if isinstance(out, tuple) else moved

    return hook
