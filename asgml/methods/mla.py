"""MLA: multimodal learning by alternating unimodal adaptation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from asgml.methods.base import Method, Step
from callbacks.errors import UserError


def entropy_weights(probabilities: dict[str, Tensor], present: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Weight (B, 1) of each modality, larger where its prediction is surer: `exp(max_k e_k - e_m)` over their sum, e
    the entropies (B,); 0 where absent."""
    names = list(probabilities)
    e = torch.stack([-(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum(1) for p in probabilities.values()])
    masks = [present[m] for m in names]
    there = torch.stack([torch.ones_like(e[0], dtype=torch.bool) if mask is None else mask for mask in masks])
    raw = torch.where(there, torch.exp(e.max(0).values - e), 0.0)
    weights = raw / raw.sum(0).clamp(min=torch.finfo(e.dtype).tiny)
    return {m: w[:, None] for m, w in zip(names, weights.unbind(), strict=True)}


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

    Attributes:
        alpha: keeps q finite.
    """

    trains_heads: ClassVar[bool] = True
    replaces_fusion_loss: ClassVar[bool] = True
    alpha: float = 0.1
    _head: nn.Linear | None = field(default=None, repr=False)
    _projection: Tensor | None = field(default=None, repr=False)
    _last: Tensor | None = field(default=None, repr=False)  # mean feature of the last turn

    def setup(self, modalities: list[str], classes: int, seed: int) -> None:
        if self.alpha <= 0:
            raise UserError("methods.mla.alpha", str(self.alpha), "above 0", "0.1")

    def modules(self, dims: dict[str, int], classes: int) -> dict[str, nn.Module]:
        if len(set(dims.values())) > 1:
            raise UserError(
                "method=mla", f"features of widths {dims}", "one width: the head is shared", "set model.encoder.dim"
            )
        self._head = nn.Linear(next(iter(dims.values())), classes)
        return {"head": self._head}

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {m: step.losses[m] for m in step.here}

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
        weights = entropy_weights(probabilities, step.present)
        return torch.stack([weights[m] * p for m, p in probabilities.items()]).sum(0)

    def state(self) -> dict[str, Any]:
        both = {"projection": self._projection, "last": self._last}
        return {name: t.cpu().clone() for name, t in both.items() if t is not None}

    def load_state(self, state: dict[str, Any]) -> None:
        self._projection, self._last = state.get("projection"), state.get("last")


def mean_feature(step: Step, m: str) -> Tensor:
    """Mean of f_m over present rows and ranks, (d,)."""
    f, mask = step.features[m].detach(), step.present[m]
    rows = f.new_full((1,), f.shape[0]) if mask is None else mask.sum().to(f.dtype)[None]
    total = step.total(torch.cat([f.sum(0), rows]))
    return total[:-1] / total[-1].clamp(min=1)
