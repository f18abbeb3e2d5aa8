"""ReconBoost: modalities are boosted in turn against the frozen others, then rectified together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from asgml.methods.base import Method, Step
from asgml.methods.shared.losses import cross_entropy
from asgml.methods.shared.presence import zeroed
from callbacks.ranges import Count, NonNegative, Steps


def ensemble(step: Step, names: list[str]) -> Tensor:
    """Add up z_m over `names`, where m is present, (B, C)."""
    total = torch.zeros_like(step.logits)
    for m in names:
        total = total + zeroed(step, step.unimodal[m], m)
    return total


@dataclass
class ReconBoost(Method):
    """ReconBoost (Hua et al., "ReconBoost: Boosting Can Achieve Modality Reconcilement", ICML 2024).

    The prediction is softmax(sum_m z_m), z_m the heads' logits; the fusion is not used. Stage s trains modality
    m = s mod N alone for `stage_epochs` epochs, all others standing still (p_-m = softmax of the sum of their z):

        L_m = CE(z_m, y) - reconcile * KL(p_-m || softmax z_m) + consolidate * mean (softmax z_m - softmax z_prev)^2

    (reconcilement with what the ensemble has learnt already, as in gradient boosting; memory consolidation towards the
    modality of the last stage, from stage 1 on; nothing reaches p_-m and z_prev). Then `rectify_epochs` epochs train
    everything on CE(sum_m z_m, y).

    All modalities belong to the ensemble from the beginning, as in the published runs, which begin with pretrained
    encoders. Public code weighs the two first terms 5 : 1 (`reconcile` is their ratio) and the sum by 5 / C, restricts
    the KL to the right class, and takes the consolidation between two detached tensors, where it has no effect; its
    heads are one shared head and its ensemble has a learnt scale. Any number of modalities. A row without m does not
    count in L_m, and adds no z_m; a batch without m in its stage makes no step.

    Attributes:
        stage_epochs: number of epochs of one modality's stage.
        rectify_epochs: number of epochs of everything together after each stage.
        reconcile: weight of the reconcilement, lambda of the paper; 0.2 on CREMA-D, 0.25 on AVE and ModelNet40.
        consolidate: weight of the consolidation, alpha of the code.
    """

    min_modalities: ClassVar[int] = 2
    trains_heads: ClassVar[bool] = True
    replaces_fusion_loss: ClassVar[bool] = True
    stage_epochs: Count = 4
    rectify_epochs: Steps = 4
    reconcile: NonNegative = 0.2
    consolidate: NonNegative = 0.5

    def setup(self) -> None:
        self.require("stage_epochs", self.stage_epochs >= 1, "1 or more")
        self.require("rectify_epochs", self.rectify_epochs >= 0, "0 or more")

    def turn(self, epoch: int) -> tuple[str | None, str | None]:
        """Return the modality whose stage it is (None: rectification) and that of the stage before (None: no such)."""
        stage, within = divmod(epoch, self.stage_epochs + self.rectify_epochs)
        if within >= self.stage_epochs:
            return None, None
        n = len(self._modalities)
        return self._modalities[stage % n], self._modalities[(stage - 1) % n] if stage else None

    def idle(self, t: int, epoch: int) -> set[str]:
        turn, _ = self.turn(epoch)
        return set() if turn is None else {m for m in self._modalities if m != turn}

    def loss(self, step: Step) -> dict[str, Tensor]:
        here = step.here
        m, last = self.turn(step.epoch)
        if m is None:
            return {"ensemble": cross_entropy(step, ensemble(step, here))}
        if m not in here:
            return {}
        z = step.unimodal[m]
        log_q = F.log_softmax(z, 1)
        with torch.no_grad():
            others = F.log_softmax(ensemble(step, [k for k in here if k != m]), 1)
        apart = F.kl_div(log_q, others, reduction="none", log_target=True).sum(1)
        terms = {m: cross_entropy(step, z, m), "reconcile": -self.reconcile * step.mean(apart, m)}
        if last is not None and last in here:
            drift = (log_q.exp() - F.softmax(step.unimodal[last].detach(), 1)).square().mean(1)
            terms["consolidate"] = self.consolidate * step.mean(zeroed(step, drift, last), m)
        return terms

    def fuse_at_test(self, step: Step) -> Tensor:
        return torch.softmax(ensemble(step, list(step.unimodal)), 1)
