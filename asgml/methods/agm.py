"""AGM: adaptive gradient modulation by the modalities' Shapley responses."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from math import factorial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asgml.methods.base import Method, Step, scale_feature_gradient
from callbacks.errors import UserError


def responses(step: Step) -> dict[str, Tensor]:
    """Mono-modal responses (B, C): modality m's Shapley value in the fused logits, the empty set being 0; they add up
    to the fused logits. `2^N - 2` fusions of features that exist, no gradient."""
    with torch.no_grad():
        names = step.here
        known = {frozenset(names): step.logits.detach()}
        for size in range(1, len(names)):
            for subset in combinations(names, size):
                known[frozenset(subset)] = step.fuse({m: step.features[m].detach() for m in subset})
        out = {}
        for m in names:
            others = [k for k in names if k != m]
            total = torch.zeros_like(step.logits)
            for size in range(len(others) + 1):
                weight = factorial(size) * factorial(len(names) - size - 1) / factorial(len(names))
                for subset in combinations(others, size):
                    total += weight * known[frozenset((*subset, m))]
                    if subset:
                        total -= weight * known[frozenset(subset)]
            out[m] = total
        return out


def ratio(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """`r_m = exp(mean over the others of s_k - s_m)`: above 1 where m is ahead (s is a cross-entropy)."""
    return {
        m: torch.exp(torch.stack([other - s for k, other in scores.items() if k != m]).mean())
        for m, s in scores.items()
    }


@dataclass
class AGM(Method):
    """AGM (Li et al., "Boosting Multi-modal Model Performance with Adaptive Gradient Modulation", ICCV 2023).

    phi^m is modality m's Shapley value in the fused logits (absent modalities zero-masked; for two modalities
    `(phi(a,v) - phi(v) + phi(a)) / 2`), s_m the mean cross-entropy of softmax(phi^m), s*_m its running mean over all
    steps so far, this one included; r_m = exp(mean_{k != m} s_k - s_m), r*_m the same of s*:

        gradient of encoder m  *=  exp(alpha * min(r*_m - r_m, 10))

    It acts at the feature, where it is the same as on every weight of the encoder. Any fusion and any number of
    modalities; with missing ones the responses are those of the modalities somebody in the batch has, and means are
    over present rows. Public code applies the factors to the responses, whose gradients all pass through the same
    fused logits, so that every encoder gets the same mean factor; this is the paper's rule.

    Attributes:
        alpha: strength; 1.0 published for most sets.
        modulation_starts: first epoch of the modulation.
        modulation_ends: epoch before which it ends.
    """

    alpha: float = 1.0
    modulation_starts: int = 0
    modulation_ends: int = 50
    _running: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _seen: dict[str, int] = field(default_factory=dict, repr=False)

    def setup(self, modalities: list[str], classes: int, seed: int) -> None:
        if len(modalities) < 2:
            raise UserError("method=agm", f"modalities {modalities}", "two or more", "use method=joint")

    def acts_from(self) -> tuple[str, int]:
        return "modulation_starts", self.modulation_starts

    def loss(self, step: Step) -> dict[str, Tensor]:
        here = step.here
        if not self.modulation_starts <= step.epoch < self.modulation_ends or len(here) < 2:
            return {}
        with torch.no_grad():
            s = {m: step.mean(F.cross_entropy(z, step.y, reduction="none"), m) for m, z in responses(step).items()}
            mean = {m: self._mean(m, value) for m, value in s.items()}
            now, usual = ratio(s), ratio(mean)
            for m in here:
                factor = torch.exp(self.alpha * (usual[m] - now[m]).clamp(max=10))
                step.reads[f"agm/factor/{m}"] = factor
                scale_feature_gradient(step, m, factor)
        step.extras["agm"] = mean
        return {}

    def _mean(self, m: str, value: Tensor) -> Tensor:
        n = self._seen.get(m, 0)
        return value if n == 0 else (self._running[m].to(value) * n + value) / (n + 1)

    def on_commit(self, step: Step) -> None:
        for m, value in step.extras.get("agm", {}).items():
            self._running[m], self._seen[m] = value, self._seen.get(m, 0) + 1

    def state(self) -> dict[str, Any]:
        return {"running": {m: v.cpu().clone() for m, v in self._running.items()}, "seen": dict(self._seen)}

    def load_state(self, state: dict[str, Any]) -> None:
        self._running, self._seen = dict(state["running"]), dict(state["seen"])
