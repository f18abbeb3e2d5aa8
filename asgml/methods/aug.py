"""AUG: sustained boosting, further classifiers for the modality that classifies worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asgml.methods.base import SAVED, Epoch, Method, Step
from asgml.methods.shared.confidence import confidence, scores
from asgml.methods.shared.losses import cross_entropy
from asgml.methods.shared.presence import has
from asgml.model.modality_dict import ModalityDict
from callbacks.ranges import NOT_EMPTY, Bounds, Count, NonNegative, Positive, Share, Width


class Boosted(nn.Module):
    """Adds up the classifiers of one modality: z = sum_t shared(relu(private_t(f))), over those that are in use.

    The number in use is a buffer, saved with the weights that it belongs to, and known on the host.

    Args:
        dim: the width of the feature.
        most: the number of classifiers that there can be.
        shared: the last layer, (width) -> (classes).
    """

    count: Tensor

    def __init__(self, dim: int, most: int, shared: nn.Linear):
        super().__init__()
        self.private = nn.ModuleList(nn.Linear(dim, shared.in_features) for _ in range(most))
        self.shared = shared
        for layer in self.private:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("count", torch.ones((), dtype=torch.long))
        self.used = 1

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.used = int(self.count)

    def add(self) -> None:
        """Take one more classifier into use, if there is one left."""
        self.used = min(self.used + 1, len(self.private))
        self.count.fill_(self.used)

    def parts(self, features: Tensor) -> list[Tensor]:
        """Return the logits (B, C) of each classifier in use, for features (B, dim)."""
        return [self.shared(torch.relu(layer(features))) for layer in self.private[: self.used]]

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack(self.parts(features)).sum(0)


@dataclass
class AUG(Method):
    """AUG (Jiang et al., "Rethinking Multimodal Learning from the Perspective of Mitigating Classification Ability
    Disproportion", NeurIPS 2025).

    Modality m has n_m classifiers z_1, …, z_n on its feature, each a layer of its own, a ReLU, and one last layer that
    all modalities and classifiers share; z_m is their sum. There is no fused loss but L = sum_m L_m, with (Eq. 2 to 5)

        L_m = CE(z_m, y) + CE(z_pre, y) + CE(z_n, y_res),    z_pre = z_1 + … + z_(n-1),
        y_res = y (1 - residual * softmax(z_pre)[y])         without gradient

    (the first term alone as long as n_m = 1). Every `every` epochs a modality gets one more classifier if its
    confidence s_m, the mean of softmax(z_m)[y] over the last epoch, is behind: mean over the others of
    s_k - sigma * s_m > tau. Prediction: softmax of the weighted mean of z_m over the modalities that the sample has.

    All `most` classifiers are made at the beginning, so that optimiser and checkpoints know them; until it is taken
    into use, one has no part in anything and keeps its first weights.

    Eq. 3 and 4 add up predictions, here logits, as in the authors' code, which differs from the paper and from this in
    that the optimiser steps after each modality; the scores' ratio is held against 1 +- tau instead of their
    difference against tau; a classifier can be added after the first epoch, too; and an added layer is not given to the
    optimiser, so that it keeps its first weights. Its versions for Kinetics-Sounds and NVGesture weigh added
    classifiers by a small network that the paper does not have. Three modalities: the code adds a classifier where
    s_m < 0.4 * the sum of the others; here, with two it is the paper's rule.

    Attributes:
        residual: lambda, the part of its probability that the label loses for the newest classifier; searched in 0.1 to
            1; in the code 0.5 on CREMA-D, 0.2 on Kinetics-Sounds.
        every: number of epochs between two checks; 20 on CREMA-D, 10 on Kinetics-Sounds, VGGSound and NVGesture, 5 on
            Twitter, 1 on Sarcasm.
        sigma: factor on a modality's own confidence.
        tau: difference up to which modalities count as equal.
        width: width between the two layers of a classifier.
        most: number of classifiers of a modality, at most; the published runs come to 10 if every check adds one.
        weights: weight of every modality in the prediction, null for equal ones; in the code 0.4 audio, 0.6 visual.
    """

    min_modalities: ClassVar[int] = 2
    trains_heads: ClassVar[bool] = True
    replaces_fusion_loss: ClassVar[bool] = True
    residual: Share = 0.5
    every: Count = 20
    sigma: Positive = 1.0
    tau: NonNegative = 0.01
    width: Width = 256
    most: Annotated[int, Bounds("1 to 1000 classifiers", ge=1, le=1000)] = 10
    weights: Annotated[dict[str, Positive], NOT_EMPTY] | None = None
    _heads: dict[str, Boosted] = field(default_factory=dict, init=False, repr=False)
    # [sum over steps of the confidence, steps] of this epoch
    _sums: dict[str, list[float]] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)

    def setup(self) -> None:
        self.require("residual", 0 <= self.residual <= 1, "0 to 1")
        for key in ("every", "width", "most"):
            self.require(key, getattr(self, key) >= 1, "1 or more")
        known = self.weights is None or (set(self.weights) == set(self._modalities) and min(self.weights.values()) > 0)
        self.require("weights", known, f"a weight above 0 for each of {', '.join(self._modalities)}", "null")

    def acts_from(self) -> tuple[str, int]:
        return "every", self.every

    def modules(self, dims: dict[str, int], classes: int) -> dict[str, nn.Module]:
        shared = nn.Linear(self.width, classes)
        nn.init.xavier_normal_(shared.weight)
        nn.init.zeros_(shared.bias)
        self._heads = {m: Boosted(dim, self.most, shared) for m, dim in dims.items()}
        return {"heads": ModalityDict(self._heads)}

    def on_epoch(self, epoch: Epoch) -> None:
        known = {m: total / steps for m, (total, steps) in self._sums.items()}
        self._sums = {}
        if epoch.number == 0 or epoch.number % self.every:
            return
        for m, own in known.items():
            others = [s for k, s in known.items() if k != m]
            if others and sum(others) / len(others) - self.sigma * own > self.tau:
                self._heads[m].add()

    def loss(self, step: Step) -> dict[str, Tensor]:
        confident = scores(step, {m: step.unimodal[m] for m in step.here})
        step.reads.update({f"aug/confidence/{m}": s for m, s in confident.items()})
        before, newest = [], []
        for m in step.here:
            if self._heads[m].used > 1:
                *previous, last = self._heads[m].parts(step.features[m])
                z = torch.stack(previous).sum(0)
                label = 1 - self.residual * confidence(z.detach(), step.y)
                before.append(cross_entropy(step, z, m))
                newest.append(step.mean(label * F.cross_entropy(last, step.y, reduction="none"), m))
        boosts = {"previous": torch.stack(before).sum(), "residual": torch.stack(newest).sum()} if newest else {}
        return {m: step.losses[m] for m in step.here} | boosts

    def on_commit(self, step: Step) -> None:
        for m in step.here:
            total, steps = self._sums.get(m, [0.0, 0.0])
            self._sums[m] = [total + step.host[f"aug/confidence/{m}"], steps + 1]

    def fuse_at_test(self, step: Step) -> Tensor:
        total, norm = torch.zeros_like(step.logits), torch.zeros_like(step.logits[:, :1])
        for m, z in step.unimodal.items():
            w = has(step, m)[:, None].to(norm.dtype) * (1.0 if self.weights is None else self.weights[m])
            total, norm = total + w * z, norm + w
        return torch.softmax(total / norm.clamp(min=torch.finfo(norm.dtype).tiny), 1)
