"""AGM: adaptive gradient modulation by the modalities' Shapley responses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from asgml.methods.base import SAVED, Method, Step
from asgml.methods.shared.gradients import scale_feature_gradient
from asgml.methods.shared.losses import cross_entropy
from asgml.methods.shared.shapley import coalitions, subsets
from callbacks.ranges import NonNegative, Steps


def responses(step: Step) -> dict[str, Tensor]:
    """Return mono-modal responses (B, C): modality m's Shapley value in the fused logits, 0 those of nobody.

    They add up to the fused logits. `2^N - 2` fusions of features that exist, no gradient.
    """
    with torch.no_grad():
        names = step.here
        known = {frozenset(names): step.logits.detach()}
        for subset in subsets(names)[:-1]:
            known[frozenset(subset)] = step.fuse({m: step.features[m].detach() for m in subset})
        out = {m: torch.zeros_like(step.logits) for m in names}
        for m, others, weight in coalitions(names):
            out[m] += weight * known[others | {m}]
            if others:
                out[m] -= weight * known[others]
        return out


def ratio(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return `r_m = exp(mean over the others of s_k - s_m)`: above 1 where m is ahead (s is a cross-entropy)."""
    return {
        m: torch.exp(torch.stack([other - s for k, other in scores.items() if k != m]).mean())
        for m, s in scores.items()
    }


@dataclass
class AGM(Method):
    """AGM (Li et al., "Boosting Multi-modal Model Performance with Adaptive Gradient Modulation", ICCV 2023).

    phi^m is modality m's Shapley value in the fused logits (absent modalities zero-masked; for two modalities
    `(phi(a,v) - phi(v) + phi(a)) / 2`), s_m the mean cross-entropy of softmax(phi^m), s*_m its mean over the modulated
    steps before this one, 0 as long as there are none; r_m = exp(mean_{k != m} s_k - s_m), r*_m the same of s*:

        gradient of encoder m  *=  exp(alpha * min(r*_m - r_m, 10))

    It acts at the feature, where it is the same as on every weight of the encoder. Any fusion and any number of
    modalities; with missing ones the responses are those of the modalities somebody in the batch has, and means are
    over present rows. Public code puts the factors k_m on the gradients of the responses, which add up to the fused
    logits, and blanks inputs: its passes with a blank input carry gradient too. With a fusion that is a sum of parts
    (concat, sum), g_m the gradient of encoder m in the fused pass and g_m(0) that on a blank input, encoder m of two
    gets

        (k_m + k_n)/2 g_m + (k_m - k_n)/2 g_m + (k_n - k_m)/2 g_m(0)  =  k_m g_m + (k_n - k_m)/2 g_m(0)

    (n the other one; up to normalisation layers, which evaluate in those passes). Here features are blanked, not
    inputs: g_m(0) = 0, and what is left is the rule above.

    Attributes:
        alpha: strength of the modulation; 1.0 published for most sets.
        begins: first epoch of the modulation.
        ends: epoch before which it ends; 20 published, where epochs are counted from 1 and the last one is included.
    """

    min_modalities: ClassVar[int] = 2
    alpha: NonNegative = 1.0
    begins: Steps = 0
    ends: Steps = 20
    _running: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _seen: dict[str, int] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)

    def loss(self, step: Step) -> dict[str, Tensor]:
        here = step.here
        if not self.begins <= step.epoch < self.ends or len(here) < 2:
            return {}
        with torch.no_grad():
            s = {m: cross_entropy(step, z, m) for m, z in responses(step).items()}
            nothing = {m: torch.zeros_like(v) for m, v in s.items()}
            before = {m: self._running[m].to(v) if m in self._running else nothing[m] for m, v in s.items()}
            # a mean beside a 0 would be no ratio of two courses
            now, usual = ratio(s), ratio(before if self._seen.keys() >= s.keys() else nothing)
            for m in here:
                factor = torch.exp(self.alpha * (usual[m] - now[m]).clamp(max=10))
                step.reads[f"agm/factor/{m}"] = factor
                scale_feature_gradient(step, m, factor)
        step.extras["agm"] = {m: self._mean(m, value, before[m]) for m, value in s.items()}
        return {}

    def _mean(self, m: str, value: Tensor, before: Tensor) -> Tensor:
        n = self._seen.get(m, 0)
        return (before * n + value) / (n + 1)

    def on_commit(self, step: Step) -> None:
        for m, value in step.extras.get("agm", {}).items():
            self._running[m], self._seen[m] = value, self._seen.get(m, 0) + 1
