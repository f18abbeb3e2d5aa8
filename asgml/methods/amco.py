"""AMCo: adaptive mask co-optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asgml.methods.base import Method, Step
from asgml.methods.shared.draws import generator
from asgml.methods.shared.losses import cross_entropy
from asgml.methods.shared.presence import has, mean_where
from callbacks.errors import UserError
from callbacks.ranges import PositiveShare, Share, ShareBelowOne


@dataclass
class AMCo(Method):
    """AMCo (Zhou et al., "Adaptive Mask Co-optimization for Modal Dependence in Multimodal Learning", ICASSP 2023).

    z_m are the fused logits from modality m alone. Its part in the decision is its share of the softmax over all z_m
    side by side, `mean_i sum_c softmax([z_1, …, z_N])_(m,c)`. The modality with the largest share is the dependent one
    if the share is at least `sigma`. Of its feature, floor(rate * d) components, the same in all samples of the batch
    and drawn afresh in every step, are masked before the fusion and the others divided by 1 - rate; the rate grows with
    the training (l = epoch / epochs):

        rate = min(sin(pi / 2 * min(l, eps) / eps), most)
        L = L_fusion(masked features) + sum_m CE(z_m, y)          z_m of the whole features

    The second sum is the co-optimisation: the dependent modality is still learned while it is masked.

    Any fusion; more than two modalities: as written, one is masked at most. Shares are means over samples with two or
    more modalities. The paper is not freely available, and this follows the method's re-implementation in a public
    benchmark, but for seven things. There, l restarts in every epoch and the rate reaches 1 (all masked) within a few
    steps; a modality that was dependent once stays so to the epoch's end; z_m has the N-th part of the fusion's bias;
    z_m is of the masked feature, so that the co-optimisation sees no more than the fusion; the shares of one batch
    decide about the next one; of several modalities with `sigma` the first by a fixed order is masked, not the one with
    the largest share; l grows by a tenth of the epoch's number in every step, so that epoch 0 masks nothing and the
    length of the training has no say, and what is left is multiplied by 10 at most while the mask has no bound.

    Attributes:
        sigma: share from which a modality is depended on.
        eps: share of the training after which the rate has its largest value.
        most: largest rate.
    """

    min_modalities: ClassVar[int] = 2
    reads_length: ClassVar[bool] = True
    sigma: Share = 0.5
    eps: PositiveShare = 0.3
    most: ShareBelowOne = 0.9

    def setup(self) -> None:
        self.require("eps", self.eps > 0, "above 0")
        self.require("most", 0 <= self.most < 1, "in [0, 1)")

    def rate(self, epoch: int, epochs: int) -> float:
        """Return the share of the dependent modality's components that an epoch masks."""
        if epochs < 1:
            found, expected = "training measured in steps alone", "epochs, with whose share the masking rate grows"
            raise UserError("trainer.max_epochs", found, expected, "trainer.max_epochs=100")
        return min(math.sin(math.pi / 2 * min(epoch / epochs, self.eps) / self.eps), self.most)

    def shares(self, step: Step, alone: dict[str, Tensor]) -> Tensor:
        """Return every modality's part in the decision, (M,), no gradient."""
        with torch.no_grad():
            present = torch.stack([has(step, m) for m in alone], 1)  # (B, M)
            z = torch.stack([z.detach() for z in alone.values()], 1)  # (B, M, C)
            p = torch.softmax(torch.where(present[:, :, None], z, -torch.inf).flatten(1), 1).view_as(z).sum(2)
            rows = present.sum(1) > 1
            return torch.stack([mean_where(step, p[:, i], rows) for i in range(len(alone))])

    def on_features(self, step: Step, features: dict[str, Tensor]) -> dict[str, Tensor]:
        if not step.training:
            return features
        alone = {m: step.fuse({m: features[m]}) for m in step.modalities}
        step.extras["amco"] = alone
        rate = self.rate(step.epoch, step.epochs)
        share = self.shares(step, alone)
        first = torch.arange(len(share), device=share.device) == share.argmax()
        dependent = first & (share >= self.sigma)
        out = dict(features)
        for i, m in enumerate(alone):
            step.reads[f"amco/share/{m}"] = share[i]
            f = features[m]
            draw = generator(f.device, self._seed, "amco", m, step.t)
            kept = torch.rand(f.shape[1], generator=draw, device=f.device).argsort() >= int(rate * f.shape[1])
            out[m] = f * torch.where(dependent[i], kept.to(f.dtype) / (1 - rate), torch.ones_like(f[0]))
        return out

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {m: cross_entropy(step, step.extras["amco"][m], m) for m in step.here}
