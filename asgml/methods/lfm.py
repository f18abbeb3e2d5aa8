"""LFM: learning the modality gap dynamically."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asgml.methods.base import Method, Step
from asgml.methods.shared.losses import FUSED
from asgml.methods.shared.presence import has, mean_where
from callbacks.errors import UserError
from callbacks.ranges import NonNegative, Positive

#: alpha_0 by epoch, lowest order first: the authors' fit to what the learned weighting gave on CREMA-D.
FITTED = (2.04623704e-01, 3.35472727e-03, 1.22989557e-04, -2.92947416e-06, 2.23835486e-08, -5.39717505e-11)


def mean_logits(step: Step) -> Tensor:
    """Average the heads' logits over the modalities that the sample has, (B, C)."""
    masks = torch.stack([has(step, m) for m in step.unimodal])
    total = torch.where(masks[:, :, None], torch.stack(list(step.unimodal.values())), 0.0).sum(0)
    return total / masks.sum(0).clamp(min=1)[:, None]


@dataclass
class LFM(Method):
    """LFM (Yang et al., "Facilitating Multimodal Classification via Dynamically Learning Modality Gap", NeurIPS 2024).

    Supervised learning of the mean of the unimodal logits and an unsupervised alignment A of the modalities, with
    weights that move from the one to the other:

        L = 2 * (alpha_0 * CE(1/N sum_m z_m, y) + alpha_1 * A),    alpha_1 = 1 - alpha_0 in [0.05, 0.95]

    A, a mean over all pairs of modalities, is
        contrastive: symmetric cross-entropy of the batch's cosines f_a^T f_b / (|f_a| |f_b| temperature), each sample
                     against its own other modality; the negatives are those of the same rank
        js:          Jensen-Shannon divergence of softmax(z_a) and softmax(z_b)
    The paper aligns by contrastive learning; the first public code had the divergence (there with the arguments of
    its KL the other way round). alpha_1 in epoch e:
        heuristic:   exp(-decay * e)
        fitted:      1 - a polynomial in e, which the authors' code fits to the weights learned on CREMA-D with `js`;
                     beside `contrastive` it weighs a term of another size (ln B untrained, where `js` has ln 2 at most)
    (the paper also learns the weights by second-order gradients on held-out samples, which is not offered here).

    The prediction is softmax(1/N sum_m z_m); the configured fusion is not trained. More than two modalities: all pairs.
    A sample counts for a pair when it has both, and its mean logits are those of the modalities it has.

    Attributes:
        alignment: kind of A, `contrastive` or `js`.
        schedule: course of alpha_1, `heuristic` or `fitted`.
        decay: rate per epoch of the heuristic schedule.
        temperature: temperature of the contrastive alignment.
    """

    min_modalities: ClassVar[int] = 2
    trains_heads: ClassVar[bool] = True
    replaces_fusion_loss: ClassVar[bool] = True
    alignment: str = "contrastive"
    schedule: str = "heuristic"
    decay: NonNegative = 0.3
    temperature: Positive = 0.07

    def setup(self) -> None:
        for key, known in (("alignment", ("contrastive", "js")), ("schedule", ("heuristic", "fitted"))):
            self.require(key, getattr(self, key) in known, " or ".join(known))

    def modules(self, dims: dict[str, int], classes: int) -> dict[str, nn.Module]:
        if self.alignment == "contrastive" and len(set(dims.values())) > 1:
            expected = "one width: features are compared with each other"
            raise UserError(
                f"method={self._name}", f"features of widths {dims}", expected, f"methods.{self._name}.alignment=js"
            )
        return {}

    def weight(self, epoch: int) -> float:
        """Return alpha_1."""
        if self.schedule == "heuristic":
            found = math.exp(-self.decay * epoch)
        else:
            found = 1 - sum(c * epoch**i for i, c in enumerate(FITTED))
        return min(max(found, 0.05), 0.95)

    def gap(self, step: Step, a: str, b: str) -> Tensor:
        """Return A of two modalities, 0-d."""
        both = has(step, a) & has(step, b)
        if self.alignment == "js":
            p, q = (F.log_softmax(step.unimodal[m], 1) for m in (a, b))
            middle = torch.logaddexp(p, q) - math.log(2)
            values = 0.5 * ((p.exp() * (p - middle)).sum(1) + (q.exp() * (q - middle)).sum(1))
            return mean_where(step, values, both)
        f, g = (F.normalize(step.features[m].to(step.logits.dtype), dim=1) for m in (a, b))
        cosine = f @ g.T / self.temperature
        # no negatives from samples without the pair; they keep themselves, and do not count
        rival = both[None] | torch.eye(len(both), dtype=torch.bool, device=both.device)
        own = torch.arange(len(both), device=both.device)
        ways = [torch.where(rival, c, -torch.inf) for c in (cosine, cosine.T)]
        losses = torch.stack([F.cross_entropy(c, own, reduction="none") for c in ways])
        return mean_where(step, losses.mean(0), both)

    def loss(self, step: Step) -> dict[str, Tensor]:
        alpha = self.weight(step.epoch)
        own = F.cross_entropy(mean_logits(step), step.y, reduction="none")
        anyone = torch.stack([has(step, m) for m in step.unimodal]).any(0)
        out = {FUSED: 2 * (1 - alpha) * mean_where(step, own, anyone)}
        pairs = list(combinations(step.here, 2))
        if pairs:
            out["alignment"] = 2 * alpha * torch.stack([self.gap(step, a, b) for a, b in pairs]).mean()
        return out

    def fuse_at_test(self, step: Step) -> Tensor:
        return torch.softmax(mean_logits(step), 1)
