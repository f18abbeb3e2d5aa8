"""MIMO: a smooth maximum of the unimodal losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asgml.methods.base import Method, Step
from callbacks.ranges import Positive


@dataclass
class MIMO(Method):
    """MIMO (Fernando et al., "Mitigating Modality Imbalance in Multi-modal Learning via Multi-objective Optimization",
    2025).

    The worst unimodal loss comes first, the fused loss second; as a penalty with a smooth maximum:

        L = L_fusion + lam * mu * log sum_m exp(L_m / mu)

    so that L_m acts with the weight lam * softmax_m(L / mu): mu -> 0 leaves the worst modality alone, mu -> infinity
    weights all equally. Any number of modalities; a modality that nobody in the batch has takes no part. The paper
    chooses lam and mu per data set; the defaults are choices of this suite.

    Attributes:
        lam: weight of the penalty.
        mu: smoothness of the maximum.
    """

    for_regression: ClassVar[bool] = True
    trains_heads: ClassVar[bool] = True
    lam: Positive = 1.0
    mu: Positive = 0.5

    def setup(self) -> None:
        for key in ("lam", "mu"):
            self.require(key, getattr(self, key) > 0, "above 0")

    def loss(self, step: Step) -> dict[str, Tensor]:
        if not step.here:
            return {}
        losses = torch.stack([step.losses[m] for m in step.here])
        with torch.no_grad():  # over all ranks: every rank's own losses would give every rank other weights
            scaled = step.total(losses) / step.total(torch.ones_like(losses)) / self.mu
            w = torch.softmax(scaled, 0)
            value = self.mu * torch.logsumexp(scaled, 0)
        for m, weight in zip(step.here, w.unbind(), strict=True):
            step.reads[f"mimo/weight/{m}"] = weight
        return {"worst": self.lam * (value + (w * (losses - losses.detach())).sum())}
