"""CGGM: classifier-guided gradient modulation, in magnitude and direction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from asgml.methods.base import SAVED, Method, Step
from asgml.methods.shared.gradients import scale_feature_gradient
from asgml.methods.shared.presence import has, zeroed
from callbacks.ranges import NonNegative


def residual(logits: Tensor, y: Tensor) -> Tensor:
    """Return softmax(logits) - onehot(y), (B, C): the gradient of each sample's cross-entropy at its logits."""
    p = torch.softmax(logits, 1)
    return p - torch.zeros_like(p).scatter_(1, y[:, None], 1.0)


def direction(step: Step, m: str) -> Tensor:
    """Return the cosine, 0-d, of the fused and the unimodal loss's gradients for a linear output layer on f_m.

    Such a layer's gradient is the mean of `residual f_m^T`, (C, d). The fused side, and it alone, has a gradient: of
    cos(A, B) for A = mean_i a_i f_i^T it is that of <V, A> with V = (B / |B| - cos A / |A|) / |A|, and <V, A> = 0.
    """
    f = step.features[m].to(step.logits.dtype)
    a = residual(step.logits, step.y)
    with torch.no_grad():
        tiny = torch.finfo(f.dtype).tiny
        rows = zeroed(step, f.detach(), m)
        fused = step.total(a.detach().T @ rows) / step.total(has(step, m).sum().to(f.dtype)).clamp(min=1)
        own = step.total(residual(step.unimodal[m].detach(), step.y).T @ rows)
        length = fused.norm().clamp(min=tiny)
        towards = own / own.norm().clamp(min=tiny)
        cosine = (fused * towards).sum() / length
        slope = (towards - cosine * fused / length) / length
    return cosine + step.mean(((a @ slope) * f).sum(1), m)


@dataclass
class CGGM(Method):
    """CGGM (Guo et al., "Classifier-guided Gradient Modulation for Enhanced Multimodal Learning", NeurIPS 2024).

    A classifier per modality learns from the detached features (here: the unimodal head, with the optimiser of the
    network); e_m is its accuracy on the batch, D_m = e_m(t) - e_m(t - 1), N the number of modalities:

        B_m = rho * sum_{k != m} D_k / sum_k D_k,    gradient of encoder m  *=  B_m
        L = L_fusion + weight * L_gm,    L_gm = 1/N sum_m (|B_m| - B_m cos(g, g_m))

    with g and g_m the gradients of the fused and of the classifier's loss for an output layer on f_m (`direction`; for
    a concat fusion these are its weights W_m and the head's). L_gm is differentiated through g in closed form. B_m
    acts at the feature, where it is the same as on every weight of the encoder.

    D_m counts as 0 where the accuracy has fallen, so that B_m lies in [0, rho]; D of mixed sign would give any value.
    If nothing has risen, all B_m are rho (N - 1) / N, as for equal D. A modality's first step only measures e_m.
    The authors' direction term has no gradient at any encoder: it is the cosine of the output layers' weights, not of
    their gradients, as they were in the step before, and turns the fused output layer alone. This one has. Public code
    also lets B grow without bound. Any number of modalities; one that nobody in the batch has takes no part, and its
    next D compares with the last step that had it.

    Attributes:
        rho: scale of the magnitudes.
        weight: weight of the direction term, lambda of the paper.
    """

    min_modalities: ClassVar[int] = 2
    rho: NonNegative = 1.3
    weight: NonNegative = 0.2
    _last: dict[str, float] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)  # accuracies

    def balance(self, accuracy: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return B_m of the modalities whose last accuracy is known."""
        gain = {m: (e - self._last[m]).clamp(min=0) for m, e in accuracy.items() if m in self._last}
        if len(gain) < 2:
            return {}
        total = torch.stack(list(gain.values())).sum()
        equal = 1 - 1 / len(gain)
        whole = total.clamp(min=torch.finfo(total.dtype).tiny)
        return {m: self.rho * torch.where(total > 0, (total - d) / whole, equal) for m, d in gain.items()}

    def loss(self, step: Step) -> dict[str, Tensor]:
        with torch.no_grad():
            dtype = step.logits.dtype
            accuracy = {m: step.mean((step.unimodal[m].argmax(1) == step.y).to(dtype), m) for m in step.here}
            balance = self.balance(accuracy)
        step.reads.update({f"cggm/accuracy/{m}": e for m, e in accuracy.items()})
        terms = []
        for m, b in balance.items():
            step.reads[f"cggm/balance/{m}"] = b
            scale_feature_gradient(step, m, b)
            terms.append(b - b * direction(step, m))
        return {"direction": self.weight * torch.stack(terms).mean()} if terms else {}

    def on_commit(self, step: Step) -> None:
        self._last = {**self._last, **{m: step.host[f"cggm/accuracy/{m}"] for m in step.here}}
