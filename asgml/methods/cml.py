"""CML: calibrating multimodal learning."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from asgml.methods.base import Method, Step
from asgml.methods.shared.losses import FUSED
from asgml.methods.shared.presence import has, mean_where, sum_where
from callbacks.ranges import NonNegative


@dataclass
class CML(Method):
    """CML (Ma et al., "Calibrating Multimodal Learning", ICML 2023).

    The confidence conf(x) = max_c softmax(f(x))_c must not grow when a modality is taken away. f(x^S) are the fused
    logits from the modalities S alone; modalities are taken away one by one until one is left, and

        L = 1/N sum_S CE(f(x^S), y) + lam * sum_(T, S) sum_i max(0, conf(x_i^T) - conf(x_i^S))

    over the N sets S and the N - 1 neighbours T = S without one modality that are met on the way. Cross-entropies are
    means over the batch; the confidence term adds up over its samples i, those of all ranks, as the authors' code does:
    its strength grows with the batch size (200 there), and `lam` holds for a sum. Sums over sets and neighbours are
    means over all orders in which modalities can be taken away (public code draws one for each sample): for two
    modalities the sets are the pair, and with weight 1/2 each single one. `2^N - 2` fusions of features that exist.

    Any fusion and any number of modalities. A sample counts for S when it has a modality of S, and for a neighbour when
    it has the one taken away and another one. The maximum is taken sample by sample, as printed; a public benchmark
    takes it of the batch's sum, where one sample makes up for another. The authors' code also leaves out samples that
    x^T gets right and x^S wrong, and lets no gradient into conf(x^S) where both are wrong.

    Attributes:
        lam: weight of the confidence term; 0.1 to 0.75 in the authors' script.
    """

    min_modalities: ClassVar[int] = 2
    replaces_fusion_loss: ClassVar[bool] = True
    lam: NonNegative = 0.1

    def loss(self, step: Step) -> dict[str, Tensor]:
        names = step.here
        if len(names) < 2:
            return {FUSED: step.losses[FUSED]}
        everyone = frozenset(names)
        conf = {everyone: torch.softmax(step.logits, 1).max(1).values}
        there = {frozenset([m]): has(step, m) for m in names}
        own: list[Tensor] = []
        for size in range(1, len(names)):
            subsets = [frozenset(s) for s in combinations(names, size)]
            for s in subsets:
                z = step.fuse({m: step.features[m] for m in names if m in s})
                conf[s] = torch.softmax(z, 1).max(1).values
                there[s] = torch.stack([there[frozenset([m])] for m in s]).any(0)
                own.append(mean_where(step, F.cross_entropy(z, step.y, reduction="none"), there[s]) / len(subsets))
        rises: list[Tensor] = []
        for size in range(2, len(names) + 1):
            pairs = [(frozenset(s), m) for s in combinations(names, size) for m in s]
            for s, m in pairs:
                rise = torch.relu(conf[s - {m}] - conf[s])
                rises.append(sum_where(step, rise, there[frozenset([m])] & there[s - {m}]) / len(pairs))
        return {
            FUSED: step.losses[FUSED] / len(names),
            "subsets": torch.stack(own).sum() / len(names),
            "confidence": self.lam * torch.stack(rises).sum(),
        }
