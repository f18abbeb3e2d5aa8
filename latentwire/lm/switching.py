"""Switching the adapter of a language model off for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Let a PEFT model read without its adapter within the block; what was frozen is so afterwards.

    PEFT takes an adapter that it brings back for one that is trained, and asks for gradients of all of it.
    """
    frozen = [p for p in model.parameters() if not p.requires_grad]
    try:
        with model.disable_adapter():
            yield
    finally:
        for p in frozen:
            p.requires_grad_(False)
