"""How often the host waits for the device in a stretch of code, and where.

On CUDA torch itself says so (`torch.cuda.set_sync_debug_mode`). On the CPU nothing waits; there, as a rehearsal, the
calls that would wait are counted: those that bring a tensor's values to Python.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from suite.accelerator.section import Place

READS = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__")
MESSAGE = "synchronizing CUDA operation"
OPTIMISERS = str(Path(torch.optim.__file__).parent)  # their step counters lie on the CPU


@contextmanager
def synchronisations(place: Place) -> Iterator[list[str]]:
    """Collect, as `file:line`, every place in the block at which the host waits for the device."""
    found: list[str] = []
    with ExitStack() as stack:
        if place.cuda:
            mode = torch.cuda.get_sync_debug_mode()
            caught = stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode(mode)
                found += [f"{Path(w.filename).name}:{w.lineno}" for w in caught if MESSAGE in str(w.message)]
            return
        for name in READS:
            stack.enter_context(mock.patch.object(torch.Tensor, name, _noting(getattr(torch.Tensor, name), found)))
        yield found


def _noting(original: Any, found: list[str]) -> Any:
    def read(*args: Any, **kwargs: Any) -> Any:
        frame = sys._getframe(1)
        if not frame.f_code.co_filename.startswith(OPTIMISERS):
            found.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        return original(*args, **kwargs)

    return read
