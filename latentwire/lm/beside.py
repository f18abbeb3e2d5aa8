"""What a prefix gives to a model beside input and cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from latentwire.lm.attention import biased
from latentwire.lm.layout import Prefix
from latentwire.lm.reading import read_between


@contextmanager
def beside(decoder: Any, layers: tuple[str, ...], prefix: Prefix, head: int, cached: bool) -> Iterator[None]:
    """Give a decoder the bias on a prefix's keys, and its layers what they read of its latents, within the block.

    Args:
        decoder: the stack of layers.
        layers: names of the layers within it.
        prefix: the prefix.
        head: the number of tokens of the head.
        cached: whether the head stands in the cache; else it is in the first columns of the first pass.
    """
    with biased(decoder, prefix.bias, head), read_between(decoder, layers, prefix.reads, 0 if cached else head):
        yield
