"""Whether two nested states are the same to the last bit."""

from __future__ import annotations

from typing import Any

import torch


def unequal(a: Any, b: Any, path: str = "") -> list[str]:
    """Return the paths at which two nested states differ in any bit; keys may stand in any order."""
    if isinstance(a, dict) and isinstance(b, dict):
        out = [f"{path}.{k} only in one" for k in a.keys() ^ b.keys()]
        return out + [p for k in a.keys() & b.keys() for p in unequal(a[k], b[k], f"{path}.{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [f"{path}: {len(a)} and {len(b)} entries"]
        return [p for i, (x, y) in enumerate(zip(a, b, strict=True)) for p in unequal(x, y, f"{path}[{i}]")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    return [] if a == b or (a != a and b != b) else [f"{path}: {a} and {b}"]
