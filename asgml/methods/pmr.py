"""PMR: prototypical modal rebalance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asgml.methods.base import Method, Step, class_sums, confidence
from asgml.methods.ogm_ge import discrepancy
from callbacks.errors import UserError


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
    first epoch has no prototypes and is joint training. Public code differs: a tenth of the training set is encoded
    again after each epoch, the weight is 0 or 1, and there is no entropy term (whose `mu` and duration here are
    choices of this suite).

    Attributes:
        alpha: weight of the prototype loss.
        momentum: of the prototypes.
        mu: weight of the entropy term.
        entropy_epochs: its duration.
    """

    alpha: float = 1.0
    momentum: float = 0.5
    mu: float = 0.01
    entropy_epochs: int = 5
    _classes: int = field(default=0, repr=False)
    _prototypes: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _sums: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _counts: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def setup(self, modalities: list[str], classes: int, seed: int) -> None:
        if len(modalities) < 2:
            raise UserError("method=pmr", f"modalities {modalities}", "two or more", "use method=joint")
        if not 0 <= self.momentum < 1:
            raise UserError("methods.pmr.momentum", str(self.momentum), "in [0, 1)", "0.5 is the published choice")
        self._classes = classes

    def on_epoch(self, epoch: Any) -> None:
        for m, total in self._sums.items():
            count = self._counts[m].to(total.device)
            means = total / count.clamp(min=1)[:, None]
            old = self._prototypes.get(m)
            new = means if old is None else self.momentum * old.to(total) + (1 - self.momentum) * means
            self._prototypes[m] = torch.where(
                count[:, None] > 0, new, torch.zeros_like(new) if old is None else old.to(new)
            )
        self._sums, self._counts = {}, {}

    def similarity(self, step: Step, m: str) -> Tensor:
        """-d(f_m, c^m_k), (B, C)."""
        f = step.features[m].to(step.logits.dtype)
        self._prototypes[m] = self._prototypes[m].to(f)
        return -torch.cdist(f, self._prototypes[m])

    def loss(self, step: Step) -> dict[str, Tensor]:
        step.extras["pmr"] = {
            m: class_sums(step, step.features[m].to(step.logits.dtype), m, self._classes) for m in step.here
        }
        here = [m for m in step.here if m in self._prototypes]
        if len(here) < 2:
            return {}
        similarity = {m: self.similarity(step, m) for m in here}
        with torch.no_grad():
            p = {m: step.mean(confidence(s.detach(), step.y), m) for m, s in similarity.items()}
            strength = discrepancy(p)
            weakness = discrepancy({m: 1 / value.clamp(min=1e-12) for m, value in p.items()})
        terms: list[Tensor] = []
        entropies: list[Tensor] = []
        for m, s in similarity.items():
            weak = (weakness[m] - 1).clamp(0, 1)
            step.reads[f"pmr/weight/{m}"] = weak
            terms.append(weak * step.mean(F.cross_entropy(s, step.y, reduction="none"), m))
            if step.epoch <= self.entropy_epochs:
                entropy = -(F.softmax(s, 1) * F.log_softmax(s, 1)).sum(1)
                entropies.append((strength[m] - 1).clamp(0, 1) * step.mean(entropy, m))
        out = {"prototypes": self.alpha * torch.stack(terms).sum()}
        if entropies:
            out["entropy"] = -self.mu * torch.stack(entropies).sum()
        return out

    def on_commit(self, step: Step) -> None:
        for m, (total, count) in step.extras["pmr"].items():
            self._sums[m] = self._sums[m].to(total.device) + total if m in self._sums else total
            self._counts[m] = self._counts[m].to(count.device) + count if m in self._counts else count

    def state(self) -> dict[str, Any]:
        kept = {"prototypes": self._prototypes, "sums": self._sums, "counts": self._counts}
        return {name: {m: t.detach().cpu().clone() for m, t in tensors.items()} for name, tensors in kept.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._prototypes, self._sums = dict(state["prototypes"]), dict(state["sums"])
        self._counts = dict(state["counts"])
