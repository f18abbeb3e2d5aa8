"""Diagnosing and re-learning: soft re-initialisation by the gap of the representations' purity."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from asgml.methods.base import SAVED, Epoch, Method, Survey
from asgml.methods.shared.draws import generator
from callbacks.ranges import Count, NonNegative, Steps

ROUNDS = 50  # of one k-means, at most
STARTS = 10  # of k-means, of which the tightest clustering counts


def clusters(x: Tensor, k: int, seed: int, starts: int = STARTS) -> Tensor:
    """Cluster the rows of `x` (n, d), to (n,): of several k-means the one with the smallest inertia.

    The inertia is the sum of squared distances to the own centre. A single start can split one group and join two.
    """
    found = [one_start(x, k, seed, start) for start in range(starts)]
    return min(found, key=lambda result: result[1])[0]


def one_start(x: Tensor, k: int, seed: int, start: int) -> tuple[Tensor, float]:
    """Return clusters (n,) and inertia of one k-means: k-means++ seeding, then rounds until nothing changes.

    A further seed is the best of some draws: the one that leaves the smallest sum of squared distances.
    """
    draw = generator(torch.device("cpu"), seed, "k-means", start)
    k = min(k, len(x))
    first = int(torch.randint(len(x), (), generator=draw))
    chosen = [first]
    distance = torch.cdist(x, x[first : first + 1]).square()[:, 0]
    for _ in range(k - 1):
        weights = distance.double().cpu()
        if float(weights.sum()) == 0.0:
            break
        drawn = torch.multinomial(weights, 2 + int(math.log(k)), replacement=True, generator=draw)
        nearer = torch.minimum(distance[:, None], torch.cdist(x, x[drawn.to(x.device)]).square())
        best = int(nearer.sum(0).argmin())
        chosen.append(int(drawn[best]))
        distance = nearer[:, best]
    centres = x[chosen]
    assigned = torch.cdist(x, centres).argmin(1)
    for _ in range(ROUNDS):
        total = torch.zeros_like(centres).index_add_(0, assigned, x)
        count = torch.zeros_like(centres[:, 0]).index_add_(0, assigned, torch.ones_like(x[:, 0]))
        centres = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], centres)
        before, assigned = assigned, torch.cdist(x, centres).argmin(1)
        if torch.equal(before, assigned):
            break
    return assigned, float((x - centres[assigned]).square().sum())


def purity(features: Tensor, y: Tensor, classes: int, seed: int) -> float:
    """Return the share of samples with the most frequent label of their cluster; columns are scaled to [-1, 1]."""
    low, high = features.min(0).values, features.max(0).values
    scaled = 2 * (features - low) / (high - low).clamp(min=torch.finfo(features.dtype).tiny) - 1
    cluster = clusters(scaled, classes, seed)
    table = torch.zeros(classes * classes, device=y.device).index_add_(
        0, cluster * classes + y, torch.ones(len(y), device=y.device)
    )
    return float(table.view(classes, classes).max(1).values.sum()) / len(y)


@dataclass
class Relearn(Method):
    """Diagnosing and re-learning (Wei et al., "Diagnosing and Re-learning for Balanced Multimodal Learning", ECCV
    2024).

    Every `every` epochs, `times` times at most, the features of each modality are clustered into as many clusters as
    there are classes, on the training and on the validation split; P is the purity of the clusters. Then encoder m is
    softly re-initialised with its first weights theta_0:

        alpha_m = tanh(strength * |P_train - P_val|),    theta_m <- (1 - alpha_m) theta_m + alpha_m theta_0

    and the optimiser forgets its state of it. k-means is the tightest of 10 starts, as in the library that public code
    calls: a single one finds a gap by chance. Any number of modalities; only present samples are clustered. The epoch
    before which it happens is a multiple of `every` (public code: one later).

    Attributes:
        every: number of epochs between two re-initialisations, and of those before the first.
        times: number of re-initialisations, at most.
        strength: strength of their growth with the gap, lambda of the paper.
    """

    keeps_initial: ClassVar[bool] = True
    every: Count = 20
    times: Steps = 3
    strength: NonNegative = 3.0
    _done: int = field(default=0, init=False, repr=False, metadata=SAVED)

    def setup(self) -> None:
        self.require("every", self.every >= 1, "1 or more")
        self.require("times", self.times >= 0, "0 or more")

    def acts_from(self) -> tuple[str, int]:
        return "every", self.every

    def weight(self, train: Survey, val: Survey, m: str) -> float:
        """Return alpha_m."""
        pure = []
        for survey in (train, val):
            here = survey.present[m]
            pure.append(purity(survey.features[m][here], survey.y[here], self._classes, self._seed))
        return math.tanh(self.strength * abs(pure[0] - pure[1]))

    def on_epoch(self, epoch: Epoch) -> None:
        if epoch.number == 0 or epoch.number % self.every or self._done >= self.times:
            return
        self._done += 1
        train, val = epoch.survey("train"), epoch.survey("val")
        for m in train.features:
            if bool(train.present[m].any()) and bool(val.present[m].any()):
                epoch.reinitialise(m, self.weight(train, val, m))
