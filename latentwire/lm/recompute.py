"""Gradient checkpointing of a decoder's layers beside a cache (Chen et al., 2016, arXiv 1604.06174).

That of transformers works in training mode alone, and drops the cache: latents that are keys and values would be lost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(decoder: Any, layers: Sequence[str], on: bool = True) -> Iterator[None]:
    """Keep of every layer within the block only what goes into it; its inside is computed again when gradients ask.

    Numbers do not change. A layer writes to the cache once, and reads what stood in it when it is computed again.

    Args:
        decoder: the stack of layers.
        layers: names of the layers within it, in the order of the cache.
        on: whether anything is done; without gradients nothing is.
    """
    if not on or not torch.is_grad_enabled():
        yield
        return
    modules = [decoder.get_submodule(name) for name in layers]
    before = [module.__dict__.get("forward") for module in modules]  # accelerate's hooks stand there as well
    for number, module in enumerate(modules):
        module.forward = _recomputing(module.forward, number)
    try:
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            del module.forward
            if own is not None:
                module.forward = own


def _recomputing(forward: Callable[..., Any], number: int) -> Callable[..., Any]:
    def layer(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        if cache is None:
            return checkpoint(lambda x: forward(x, *args, **kwargs), hidden, use_reentrant=False)
        found, written = copy.copy(cache.layers[number]), list[Any]()

        def inside(x: Tensor) -> Any:
            own = copy.copy(cache)
            own.layers = [*cache.layers]
            own.layers[number] = copy.copy(found)
            out = forward(x, *args, **{**kwargs, "past_key_values": own})
            written.append(own.layers[number])
            return out

        out = checkpoint(inside, hidden, use_reentrant=False)
        cache.layers[number] = written[0]
        written.clear()
        return out

    return layer
