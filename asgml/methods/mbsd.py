"""MBSD: balanced multimodal self-distillation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asgml.methods.base import Method, Step
from asgml.methods.shared.confidence import confidence
from asgml.methods.shared.presence import has, mean_where
from callbacks.errors import UserError
from callbacks.ranges import NonNegative


@dataclass
class MBSD(Method):
    """MBSD's self-distillation (Liu et al., "Multimodal Pre-Training with Self-Distillation for Product Understanding
    in E-Commerce", WSDM 2023).

    In every sample, the modality that is surer of the right class teaches the other one, its predictions and its
    representation, the more the further they are apart. With p_m = softmax(z_m) of head m, s the stronger modality of
    sample i (the larger p[y]), v the weaker one, and the teacher's side without gradient:

        w_i = p_s[y] - p_v[y]  where one of the two predicts y,  else 0                 (no gradient)
        L = L_fusion + sum_m L_m + kl * mean_i w_i KL(p_s || p_v) + similarity * mean_i w_i |f_s - f_v|^2 / d

    More than two modalities: the mean over all pairs. A sample counts for a pair when it has both. Representations must
    have one width d. The only public code is a benchmark's: its KL is of the two single numbers p[y], and the compared
    representations are the logits.

    Attributes:
        kl: weight of the distilled predictions.
        similarity: weight of the distilled representations.
    """

    min_modalities: ClassVar[int] = 2
    trains_heads: ClassVar[bool] = True
    kl: NonNegative = 1.0
    similarity: NonNegative = 1.0

    def modules(self, dims: dict[str, int], classes: int) -> dict[str, nn.Module]:
        if self.similarity and len(set(dims.values())) > 1:
            expected = "one width: features are compared with each other"
            raise UserError(
                f"method={self._name}", f"features of widths {dims}", expected, f"methods.{self._name}.similarity=0"
            )
        return {}

    def pair(self, step: Step, a: str, b: str) -> tuple[Tensor, Tensor]:
        """Return the two distillation terms of two modalities, 0-d."""
        y = step.y
        with torch.no_grad():
            gap = confidence(step.unimodal[a].detach(), y) - confidence(step.unimodal[b].detach(), y)
            right = torch.stack([step.unimodal[m].argmax(1) == y for m in (a, b)]).any(0)
            w = torch.where(right, gap.abs(), 0.0)
        first = (gap > 0)[:, None]  # a teaches

        def sides(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
            """Return teacher (no gradient) and student, row by row."""
            return torch.where(first, x, z).detach(), torch.where(first, z, x)

        log_s, log_v = sides(*(F.log_softmax(step.unimodal[m], 1) for m in (a, b)))
        both = has(step, a) & has(step, b)
        kl = mean_where(step, w * (log_s.exp() * (log_s - log_v)).sum(1), both)
        if not self.similarity:
            return kl, torch.zeros_like(kl)
        f_s, f_v = sides(*(step.features[m].to(step.logits.dtype) for m in (a, b)))
        return kl, mean_where(step, w * (f_s - f_v).square().mean(1), both)

    def loss(self, step: Step) -> dict[str, Tensor]:
        out = super().loss(step)
        pairs = [self.pair(step, a, b) for a, b in combinations(step.here, 2)]
        if pairs and self.kl:
            out["kl"] = self.kl * torch.stack([k for k, _ in pairs]).mean()
        if pairs and self.similarity:
            out["similarity"] = self.similarity * torch.stack([s for _, s in pairs]).mean()
        return out
