"""MLA: multimodal learning by alternating unimodal adaptation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from asgml.methods.base import SAVED, Method, Step
from asgml.methods.shared.presence import has
from callbacks.errors import UserError
from callbacks.ranges import Positive


def entropy_weights(step: Step, probabilities: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weight (B, 1) of each modality, larger where its prediction is surer; 0 where absent.

    `exp(max_k e_k - e_m)` over their sum, e the entropies (B,).
    """
    e = torch.stack([-(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum(1) for p in probabilities.values()])
    there = torch.stack([has(step, m) for m in probabilities])
    raw = torch.where(there, torch.exp(e.max(0).values - e), 0.0)
    weights = raw / raw.sum(0).clamp(min=torch.finfo(e.dtype).tiny)
    return {m: w[:, None] for m, w in zip(probabilities, weights.unbind(), strict=True)}


def mean_feature(step: Step, m: str) -> Tensor:
    """Average f_m over present rows and ranks, (d,)."""
    f = step.features[m].detach()
    total = step.total(torch.cat([f.sum(0), has(step, m).sum().to(f.dtype)[None]]))
    return total[:-1] / total[-1].clamp(min=1)


@dataclass
class MLA(Method):
    """MLA (Zhang et al., "Multimodal Representation Learning by Alternating Unimodal Adaptation", CVPR 2024).

    One linear head is shared by all modalities; there is no fused loss. Modalities take turns, `L_m = CE(head(f_m), y)`
    each with its own encoder, and the head's weight gradient of modality m is projected away from what the one before
    it has used, with hbar the mean feature of that one in its turn:

        q = P hbar / (alpha + hbar^T P hbar),    P <- P - q (P hbar)^T,    dW <- dW P            (P = 1 at first)

    Prediction: `sum_m w_m softmax(head(f_m))`, w_m falling with the entropy (`entropy_weights`); an absent modality has
    weight 0. The turns of all modalities on one batch make one optimiser step (N backward passes, each through one
    encoder): every encoder's gradient is taken at the head before, not after, the others' turn on the same batch.
    Any number of modalities whose features have the same width. A modality that nobody has misses its turn.

    As printed; public code differs in six ways. (1) alpha falls from 0.1 to 0.01 in the course of every epoch. (2) The
    divisor is a matrix, alpha + P hbar hbar^T entry by entry, not a number. (3) After each turn P is divided by its
    Frobenius norm, which is then 1. (4) hbar is the mean feature of the modality whose turn it is, not of the one
    before. (5) The optimiser steps after each turn, so that the next one sees a head that has moved. (6) Prediction
    adds up logits, not probabilities, with fixed weights (1/2 for two modalities); where they follow the entropy, it is
    one weight for a whole batch, from a softmax over its samples instead of the classes.

    Attributes:
        alpha: term in the divisor that keeps q finite.
    """

    trains_heads: ClassVar[bool] = True
    replaces_fusion_loss: ClassVar[bool] = True
    alpha: Positive = 0.1
    _head: nn.Linear | None = field(default=None, init=False, repr=False)
    _projection: Tensor | None = field(default=None, init=False, repr=False, metadata=SAVED)
    _last: Tensor | None = field(default=None, init=False, repr=False, metadata=SAVED)  # mean feature of the last turn

    def setup(self) -> None:
        self.require("alpha", self.alpha > 0, "above 0")

    def modules(self, dims: dict[str, int], classes: int) -> dict[str, nn.Module]:
        (_, width), *others = dims.items()
        for m, other in others:
            if other != width:
                found, expected = f"features of widths {dims}", "one width: the head is shared"
                raise UserError(f"method={self._name}", found, expected, f"model.encoders.{m}.dim={width}")
        self._head = nn.Linear(width, classes)
        return {"head": self._head}

    def substeps(self, step: Step, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        parts = {m: terms[m] for m in step.here}
        rest = [value for name, value in terms.items() if name not in parts]
        if rest and parts:
            first = next(iter(parts))
            parts[first] = torch.stack([parts[first], *rest]).sum()
        return parts

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        assert self._head is not None
        weight = self._head.weight
        place = next(i for i, p in enumerate(groups["fusion"]) if p is weight)
        with torch.no_grad():
            projection = self._projection
            if projection is None:
                projection = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
            projection, last = projection.to(weight), self._last
            total = torch.zeros_like(weight)
            for m in step.here:
                g = step.gradients[m]["fusion"][place]
                if last is not None:
                    used = projection @ last.to(weight)
                    projection = projection - torch.outer(used, used) / (self.alpha + last.to(weight) @ used)
                if g is not None:
                    total += g @ projection
                last = mean_feature(step, m).to(weight)
            weight.grad = total
        step.extras["mla"] = (projection, last)
        return {"fusion"}

    def on_commit(self, step: Step) -> None:
        self._projection, self._last = step.extras["mla"]

    def fuse_at_test(self, step: Step) -> Tensor:
        probabilities = {m: torch.softmax(z, 1) for m, z in step.unimodal.items()}
        weights = entropy_weights(step, probabilities)
        return torch.stack([weights[m] * p for m, p in probabilities.items()]).sum(0)
