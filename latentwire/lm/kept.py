"""States of chosen layers at chosen columns of a forward pass: all else of them is let go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor


@contextmanager
def kept(decoder: Any, names: Sequence[str], layers: Sequence[int], where: Tensor) -> Iterator[dict[int, Tensor]]:
    """Keep states at some of the last columns of a pass within the block; differentiable.

    They are copied out while the pass goes on, so a pass without gradient holds N d_hidden numbers of each, whatever
    the length of its text. What a layer reads beside its input (`read_between`) is in the state behind it.

    Args:
        decoder: the stack of layers.
        names: names of the layers within it.
        layers: numbers of the states, 0 (embeddings) to len(names) (the last one, normalised), as of `FrozenLM.hidden`.
        where: (B, A) bool, which of the last A columns, N in all.

    Yields:
        The states (N, d_hidden) by number, in the model's dtype; there when the pass is over.
    """
    found: dict[int, Tensor] = {}

    def keep(number: int, x: Tensor) -> None:
        found[number] = x[:, -where.shape[1] :][where.to(x.device)]

    handles = []
    for number in layers:
        if number < len(names):
            layer = decoder.get_submodule(names[number])
            handles.append(layer.register_forward_pre_hook(lambda _, given, n=number: keep(n, given[0])))
        else:
            handles.append(decoder.register_forward_hook(lambda _, given, out, n=number: keep(n, out[0])))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
