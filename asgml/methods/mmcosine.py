"""MMCosine: the fused logits are a sum of cosines."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asgml.methods.base import Method
from asgml.model.fusion.base import Fusion
from callbacks.ranges import Positive


class Cosine(Fusion):
    """Fuses to `logits_c = scale * sum_m cos(W_{m,c}, f_m)`, without bias; the part of a modality is its summand.

    An absent modality is a zero vector, whose cosine is 0. W as in a linear layer over all features side by side.
    """

    def __init__(self, dims: dict[str, int], classes: int, scale: float):
        super().__init__(dims, classes)
        self.scale = scale
        self.weight = nn.Parameter(nn.Linear(sum(dims.values()), classes, bias=False).weight.detach().clone())

    def fuse(self, features: dict[str, Tensor], present: dict[str, Tensor] | None) -> Tensor:
        return torch.stack([self.unimodal_logits(features, m) for m in self.dims]).sum(0)

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        weights = self.weight.split(list(self.dims.values()), dim=1)[list(self.dims).index(modality)]
        f = features[modality].to(weights.dtype)  # norms of half-precision features overflow
        return self.scale * F.linear(F.normalize(f, dim=1), F.normalize(weights, dim=1))


@dataclass
class MMCosine(Method):
    """MMCosine (Xu et al., "MMCosine: Multi-Modal Cosine Loss Towards Balanced Audio-Visual Fine-Grained Learning",
    ICASSP 2023).

    Feature and weight of every modality are normalised each by itself, so that neither can win by its length:

        logits_c = s * sum_m <W_{m,c}, f_m> / (|W_{m,c}| |f_m|),    L = CE(logits, y)

    It is a fusion of its own and takes the place of the configured one. Any number of modalities; the summand of a
    missing one is 0. Public code trains with these logits and selects and tests with those of the plain linear layer;
    here they are the model's in every phase.

    Attributes:
        scale: factor s on the cosines.
    """

    scale: Positive = 15.0

    def setup(self) -> None:
        self.require("scale", self.scale > 0, "above 0")

    def modules(self, dims: dict[str, int], classes: int) -> dict[str, nn.Module]:
        return {"fusion": Cosine(dims, classes, self.scale)}
