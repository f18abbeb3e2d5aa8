"""The method interface: a dataclass of hyper-parameters and the one or two hooks it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass
class Step:
    """One batch, as methods see it.

    Attributes:
        y: labels (B,).
        present: per modality a bool mask (B,), or None where every row is present.
        features: encoder outputs (B, d_m), zero rows where absent.
        logits: fused logits (B, C).
        unimodal: z_m of the unimodal heads (B, C).
        slices: `slices(m)` is the part of the fused logits that modality m accounts for (W_m f_m + b/M, Peng et
            al. 2022), or the head's z_m where the fusion has no such part.
        losses: mean cross-entropy of `fusion` and of every modality (over present rows, over all ranks).
        mean: `mean(values, m)` averages per-sample values (B,) over the rows where m is present (m None: all
            rows), over all ranks.
        t: committed optimiser steps. epoch: the current epoch. training: is this a training step?
    """

    y: Tensor
    present: dict[str, Tensor | None]
    features: dict[str, Tensor]
    logits: Tensor
    unimodal: dict[str, Tensor]
    slices: Callable[[str], Tensor]
    losses: dict[str, Tensor]
    mean: Callable[[Tensor, str | None], Tensor]
    t: int
    epoch: int
    training: bool
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def modalities(self) -> list[str]:
        return list(self.features)


@dataclass
class Method:
    """Base of all methods: every hook does nothing. Methods compose as a list, applied in the order given.

    Subclasses are dataclasses whose fields are the hyper-parameters, with formula and paper in the docstring;
    they import torch only. State that must survive a restart goes through `state`/`load_state`.
    """

    trains_heads: ClassVar[bool] = (
        False  # does a loss of this method reach the encoders through the unimodal heads?
    )
    replaces_fusion_loss: ClassVar[bool] = False

    def setup(self, modalities: list[str], classes: int, seed: int) -> None:
        """Once, before training; raise UserError when the method has no meaning for these modalities."""

    def active(self, modalities: list[str]) -> list[str]:
        """The modalities whose encoders run at all."""
        return modalities

    def on_features(self, features: dict[str, Tensor], present: dict[str, Tensor | None]) -> dict[str, Tensor]:
        """Changes the features the fusion reads (training only)."""
        return features

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Weighted terms to add to the fused cross-entropy, by name (their shares are logged)."""
        return {}

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        """Changes `p.grad` in place (unscaled, reduced over ranks); returns the names of the groups it changed."""
        return set()

    def group_lr(self, step: Step) -> dict[str, float]:
        """Factors on the learning rate of groups for this step."""
        return {}

    def on_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Before each epoch, with the newest validation metrics (empty in the first)."""

    def fuse_at_test(self, step: Step) -> Tensor | None:
        """Class probabilities (B, C) to evaluate instead of softmax(fused logits), or None."""
        return None

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None: ...


def confidence(logits: Tensor, y: Tensor) -> Tensor:
    """softmax(logits)[i, y_i], shape (B,)."""
    return torch.softmax(
        logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, dim=1
    ).gather(1, y[:, None])[:, 0]
