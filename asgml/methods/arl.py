"""ARL: asymmetric representation learning from the variance and the dependence of the unimodal predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from asgml.methods.base import Method, Step
from asgml.methods.shared.gradients import scale_feature_gradient
from asgml.methods.shared.losses import cross_entropy, entropy
from callbacks.ranges import NonNegative, Positive, PositiveShare, Steps


@dataclass
class ARL(Method):
    """ARL (Wei et al., "Improving Multimodal Learning via Imbalanced Learning", ICCV 2025).

    z_m are the logits that the fusion makes of modality m alone, L_m their cross-entropy: there are no heads, and the
    unimodal losses train the fusion too. H_m is the mean entropy of softmax(z_m), D_m the mean of sum_c |z_m,c|;
    h_m = max(H_m / sum_k H_k, floor), v_m = (1/h_m) / sum_k (1/h_k) the inverse-entropy ratio, d_m = D_m / sum_k D_k
    the dependence ratio:

        w = softmax_m(temperature * v_m * (1 - d_m) / (N - 1))      for two modalities: 1 - d_m is d of the other
        gradient at feature m *= 1 + w_m,    L = L_fusion + gamma * sum_m L_m

    Before epoch `begins` no gradient is scaled and gamma is 1. N > 2: as written. Means are over present rows; a
    modality that nobody in the batch has takes no part. Public code also clips the whole gradient at norm 40.

    Attributes:
        temperature: sharpness of the softmax over modalities; 8 on CREMA-D, else 4.
        gamma: weight of the unimodal losses; 4, 5, 3 and 1 in the published scripts (CREMA-D, AVE, Kinetics-Sounds,
            VGGSound); no published value for other sets.
        begins: first epoch with scaled gradients and with `gamma`.
        floor: smallest entropy ratio.
    """

    min_modalities: ClassVar[int] = 2
    temperature: Positive = 8.0
    gamma: NonNegative = 4.0
    begins: Steps = 6
    floor: PositiveShare = 0.3

    def weights(self, step: Step, alone: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return w_m, 0-d, of the logits z_m (B, C), without gradient."""
        here = list(alone)
        with torch.no_grad():
            z = {m: v.detach() for m, v in alone.items()}
            h = torch.stack([step.mean(entropy(v), m) for m, v in z.items()])
            d = torch.stack([step.mean(v.abs().sum(1), m) for m, v in z.items()])
            inverse = 1 / (h / h.sum()).clamp(min=self.floor)
            score = inverse / inverse.sum() * (1 - d / d.sum()) / (len(here) - 1)
            return dict(zip(here, F.softmax(self.temperature * score, 0).unbind(), strict=True))

    def loss(self, step: Step) -> dict[str, Tensor]:
        alone = {m: step.fuse({m: step.features[m]}) for m in step.here}
        early = step.epoch < self.begins
        if len(alone) > 1 and not early:
            for m, w in self.weights(step, alone).items():
                step.reads[f"arl/weight/{m}"] = w
                scale_feature_gradient(step, m, 1 + w)
        gamma = 1.0 if early else self.gamma
        return {m: gamma * cross_entropy(step, z, m) for m, z in alone.items()}
