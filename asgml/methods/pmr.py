"""PMR: prototypical modal rebalance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from asgml.methods.base import SAVED, Epoch, Method, Step
from asgml.methods.shared.confidence import discrepancy, scores
from asgml.methods.shared.losses import cross_entropy, entropy
from asgml.methods.shared.presence import has, zeroed
from callbacks.ranges import NonNegative, ShareBelowOne, Steps


def class_sums(step: Step, m: str, classes: int) -> tuple[Tensor, Tensor]:
    """Add up f_m (C, d) and count rows (C,) per class, over present rows and all ranks; no gradient."""
    f = step.features[m].detach().to(step.logits.dtype)
    packed = torch.cat([zeroed(step, f, m), has(step, m).to(f.dtype)[:, None]], dim=1)
    total = step.total(packed.new_zeros(classes, packed.shape[1]).index_add_(0, step.y, packed))
    return total[:, :-1], total[:, -1]


@dataclass
class PMR(Method):
    """PMR (Fan et al., "PMR: Prototypical Modal Rebalance for Multimodal Learning", CVPR 2023).

    c^m_k is the prototype of class k in modality m, d the Euclidean distance, q_m = softmax(-d(f_m, c^m_.)), p_m the
    mean of q_m[y] over the batch, rho_m the mean over the other modalities of p_m / p_k (one ratio for two):

        L = L_fusion + alpha * sum_m clip(1/rho_m - 1, 0, 1) * CE(-d(f_m, c^m_.), y)                 (Eq. 11)

    so that the weak modality is pulled towards its prototypes. In the first `entropy_epochs` epochs with prototypes the
    dominant one is kept from closing in prematurely: `- mu * sum_m clip(rho_m - 1, 0, 1) * H(q_m)`. 1/rho_m stands for
    the mean over the others of p_k / p_m. After each epoch c <- momentum * c + (1 - momentum) * (class means of the
    features that the epoch's steps have seen); a class not seen keeps its prototype.

    More than two modalities: the mean ratios above. A missing row counts neither in means nor in prototypes. The
    first epoch has no prototypes and is joint training, as are all from `ends` on. Public code differs: a tenth of the
    training set is encoded again after each epoch, the weight is 0 or 1, and there is no entropy term.

    Attributes:
        alpha: weight of the prototype loss.
        momentum: share of the old prototypes in the new ones, epsilon of the paper; no published value (the default of
            the authors' code is 0.2).
        mu: weight of the entropy term; 0.01 published.
        entropy_epochs: number of epochs with it, from the first one with prototypes on; no published value.
        ends: epoch before which both terms end; 70 of 130 epochs published.
    """

    min_modalities: ClassVar[int] = 2
    alpha: NonNegative = 1.0
    momentum: ShareBelowOne = 0.5
    mu: NonNegative = 0.01
    entropy_epochs: Steps = 5
    ends: Steps = 70
    _prototypes: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _sums: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _counts: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)

    def setup(self) -> None:
        self.require("momentum", 0 <= self.momentum < 1, "in [0, 1)")

    def on_epoch(self, epoch: Epoch) -> None:
        for m, total in self._sums.items():
            count = self._counts[m].to(total.device)
            means = total / count.clamp(min=1)[:, None]
            old = self._prototypes.get(m)
            new = means if old is None else self.momentum * old.to(total) + (1 - self.momentum) * means
            kept = torch.zeros_like(new) if old is None else old.to(new)
            self._prototypes[m] = torch.where(count[:, None] > 0, new, kept)
        self._sums, self._counts = {}, {}

    def similarity(self, step: Step, m: str) -> Tensor:
        """Return -d(f_m, c^m_k), (B, C)."""
        f = step.features[m].to(step.logits.dtype)
        self._prototypes[m] = self._prototypes[m].to(f)
        return -torch.cdist(f, self._prototypes[m])

    def loss(self, step: Step) -> dict[str, Tensor]:
        if step.epoch >= self.ends:
            return {}
        step.extras["pmr"] = {m: class_sums(step, m, self._classes) for m in step.here}
        here = [m for m in step.here if m in self._prototypes]
        if len(here) < 2:
            return {}
        similarity = {m: self.similarity(step, m) for m in here}
        with torch.no_grad():
            p = scores(step, similarity)
            strength = discrepancy(p)
            weakness = discrepancy({m: 1 / value.clamp(min=1e-12) for m, value in p.items()})
        terms: list[Tensor] = []
        entropies: list[Tensor] = []
        for m, s in similarity.items():
            weak = (weakness[m] - 1).clamp(0, 1)
            step.reads[f"pmr/weight/{m}"] = weak
            terms.append(weak * cross_entropy(step, s, m))
            if step.epoch <= self.entropy_epochs:
                entropies.append((strength[m] - 1).clamp(0, 1) * step.mean(entropy(s), m))
        out = {"prototypes": self.alpha * torch.stack(terms).sum()}
        if entropies:
            out["entropy"] = -self.mu * torch.stack(entropies).sum()
        return out

    def on_commit(self, step: Step) -> None:
        for m, (total, count) in step.extras.get("pmr", {}).items():
            self._sums[m] = self._sums[m].to(total.device) + total if m in self._sums else total
            self._counts[m] = self._counts[m].to(count.device) + count if m in self._counts else count
