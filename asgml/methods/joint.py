"""Joint training: the fused cross-entropy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from asgml.methods.base import Method


@dataclass
class Joint(Method):
    """Joint training, `L = CE(fusion(f_1, …, f_N), y)`: the baseline of every paper on modality imbalance.

    The unimodal heads are trained on detached features, so that `accuracy/<modality>` exists without touching the
    encoders.
    """

    for_regression: ClassVar[bool] = True
