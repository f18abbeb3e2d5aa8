"""Gradients that are no numbers while losses are, from a given step on; a callback of configurations."""

from __future__ import annotations

from typing import Any

import lightning as L


class PoisonGradients(L.Callback):
    """Makes the gradients of every parameter whose name begins with `prefix` NaN, from batch `first` of the run on."""

    def __init__(self, prefix: str, first: int = 0):
        self.prefix, self.first, self.batches = prefix, first, 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches += 1

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        for name, parameter in pl_module.named_parameters():
            if self.batches > self.first and name.startswith(self.prefix) and parameter.grad is not None:
                parameter.grad.fill_(float("nan"))
