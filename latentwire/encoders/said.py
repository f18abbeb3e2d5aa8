"""What a part of an encoder says of its last forward pass, for objectives that hear it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Saying(nn.Module):
    """Says something of every text of a forward pass in training; base of parts that do.

    Attributes:
        says: widths of what it says, by name; 1 for a number.
    """

    says: Mapping[str, int]

    def __init__(self) -> None:
        super().__init__()
        self.says = {}
        self._said: dict[str, Tensor] = {}

    def say(self, name: str, value: Tensor) -> None:
        """Keep a value (B, …) until it is taken; only in training, so that no graph outlives its step."""
        if self.training and torch.is_grad_enabled():
            self._said[name] = value

    def take(self) -> dict[str, Tensor]:
        """Return what was said since the last time, and forget it."""
        said, self._said = self._said, {}
        return said
