"""Data remixing: every sample trains the modality that is least sure of it, alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asgml.methods.base import Epoch, Method, Selection, Step, Survey
from asgml.methods.shared.draws import generator
from callbacks.ranges import Count, NonNegative


def separability(survey: Survey) -> dict[str, Tensor]:
    """Return `KL(softmax(z_m) || uniform)` in bits, (n,), of every modality; infinite where it is absent."""
    out = {}
    for m, z in survey.unimodal.items():
        log_p = torch.log_softmax(z.double(), 1)
        kl = ((log_p.exp() * log_p).sum(1) + math.log(z.shape[1])) / math.log(2)
        out[m] = torch.where(survey.present[m], kl, torch.inf)
    return out


@dataclass
class Remix(Method):
    """Data remixing (Ma et al., "Improving Multimodal Learning Balance and Sufficiency through Data Remixing", ICML
    2025).

    Before epoch `begins`, training is joint, `L = L_fusion + alpha * sum_m L_m`. From then on, before each epoch:

        decoupling:    sample x is given to the modality whose head is least sure of it, argmin_m KL(p_m(x) || uniform),
                       and comes without all other modalities
        reassembling:  the samples of one modality come one after another, so that a batch holds one modality only

    and `L = L_fusion + gamma * L_m` with the modality m that is there. An epoch keeps its n samples and its steps.

    More than two modalities: as written. A sample is only given to modalities that it has. Modalities come in the
    data's order, shuffled within; their numbers of samples need not divide into batches, so that the batch at each
    border holds the end of one modality and the beginning of the next (public code: batches of their own, of which the
    last of each modality may be small, visual first; the dropped modalities' encoders run there, and are zeroed after).

    Attributes:
        begins: first epoch of remixed samples.
        alpha: weight of the unimodal losses before it.
        gamma: weight of the unimodal loss from it on.
    """

    min_modalities: ClassVar[int] = 2
    trains_heads: ClassVar[bool] = True
    begins: Count = 10
    alpha: NonNegative = 0.5
    gamma: NonNegative = 1.0

    def setup(self) -> None:
        self.require("begins", self.begins >= 1, "1 or more: before it the heads know nothing")

    def select(self, epoch: Epoch) -> Selection | None:
        if epoch.number < self.begins:
            return None
        survey = epoch.survey("train")
        given = torch.stack(list(separability(survey).values())).argmin(0).cpu()
        draw = generator(torch.device("cpu"), self._seed, "remix", epoch.number)
        shuffled = torch.randperm(len(given), generator=draw)
        order = shuffled[given[shuffled].argsort(stable=True)]
        return Selection(survey.index.cpu()[order], {m: given[order] != i for i, m in enumerate(survey.unimodal)})

    def loss(self, step: Step) -> dict[str, Tensor]:
        weight = self.alpha if step.epoch < self.begins else self.gamma
        return {m: weight * step.losses[m] for m in step.here}
