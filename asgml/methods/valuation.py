"""Modality valuation: the modality that contributes little to a sample is trained on that sample again, alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asgml.methods.base import Epoch, Method, Selection, Survey
from asgml.methods.shared.draws import generator
from asgml.methods.shared.shapley import coalitions, subsets
from callbacks.ranges import NonNegative, Steps


def contributions(survey: Survey) -> dict[str, Tensor]:
    """Return phi_m (n,), the Shapley value of m in a game about the fused prediction.

    `v(S) = |S|` where the prediction from S is right, else 0. Per sample; S are the modalities that are present in it,
    and phi_m of an absent one is 1 (nothing to make up for).
    `2^N - 1` fusions of the survey's features.
    """
    names, nothing = list(survey.features), torch.zeros(len(survey.y), device=survey.y.device)
    worth = {frozenset[str](): nothing}
    for subset in subsets(names):
        there = torch.stack([survey.present[m] for m in subset]).sum(0)
        right = survey.logits(list(subset)).argmax(1) == survey.y
        worth[frozenset(subset)] = torch.where(right, there, 0).float()
    phi = dict.fromkeys(names, nothing)
    for m, others, weight in coalitions(names):
        phi[m] = phi[m] + weight * (worth[others | {m}] - worth[others])
    return {m: torch.where(survey.present[m], value, 1.0) for m, value in phi.items()}


@dataclass
class Valuation(Method):
    """Modality valuation and re-sampling (Wei et al., "Enhancing Multimodal Cooperation via Sample-level Modality
    Valuation", CVPR 2024).

    Before each epoch from `begins` on, phi_m(x) is the Shapley value of modality m for training sample x (see
    `contributions`; it is 1 where everything is right). `level`:

        sample:   x is added round(repeats * (1 - phi_m(x))) times with modality m alone, for every m with phi_m(x) < 1
        modality: a share min(1, strength * gap) of the samples is added with the weakest modality alone, gap the
                  mean over the others of (mean phi_k - mean phi_m)

    The epoch then keeps its number of steps: n samples are drawn without replacement from the n originals and what was
    added (public code lengthens the epoch, which would give this method more updates than any other). More than two
    modalities: the Shapley value over all subsets; alone means without all others.

    Attributes:
        level: what is valued, every `sample` or every `modality` as a whole.
        begins: first epoch of re-sampling, after joint training.
        repeats: number of times that `sample` adds a sample per unit of 1 - phi; 2 gives the published 1, 2, 3 times
            for phi 0.5, 0, -0.5.
        strength: share of the samples that `modality` adds, per unit of the gap; 2/3 published.
    """

    min_modalities: ClassVar[int] = 2
    level: str = "sample"
    begins: Steps = 5
    repeats: NonNegative = 2.0
    strength: NonNegative = 2 / 3

    def setup(self) -> None:
        self.require("level", self.level in ("sample", "modality"), "sample or modality")

    def added(self, phi: dict[str, Tensor], present: dict[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
        """Return the rows (k_m,) to add with modality m alone, on the CPU."""
        if self.level == "sample":
            times = {m: torch.round(self.repeats * (1 - p).clamp(min=0)).long().cpu() for m, p in phi.items()}
            return {m: torch.arange(len(t)).repeat_interleave(t) for m, t in times.items()}
        mean = {m: float(p[present[m]].mean()) if bool(present[m].any()) else 1.0 for m, p in phi.items()}
        weakest = min(mean, key=mean.__getitem__)
        gap = sum(v - mean[weakest] for m, v in mean.items()) / (len(mean) - 1)
        rows = torch.where(present[weakest].cpu())[0]
        count = round(min(1.0, self.strength * gap) * len(rows))
        return {weakest: rows[torch.randperm(len(rows), generator=draw)[:count]]}

    def select(self, epoch: Epoch) -> Selection | None:
        if epoch.number < self.begins:
            return None
        survey = epoch.survey("train")
        draw = generator(torch.device("cpu"), self._seed, "valuation", epoch.number)
        extra = self.added(contributions(survey), survey.present, draw)
        index = torch.cat([survey.index.cpu(), *(survey.index.cpu()[rows] for rows in extra.values())])
        alone = torch.cat(
            [torch.full((len(survey.y),), -1), *(torch.full((len(r),), i) for i, r in enumerate(extra.values()))]
        )
        chosen = torch.randperm(len(index), generator=draw)[: len(survey.y)]
        index, alone = index[chosen], alone[chosen]
        kept = list(extra)
        drop = {
            m: (alone >= 0) & ~(alone == kept.index(m) if m in kept else torch.zeros_like(alone, dtype=torch.bool))
            for m in survey.features
        }
        return Selection(index, drop)
