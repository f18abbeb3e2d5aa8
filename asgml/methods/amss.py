"""AMSS: adaptively masked subnetworks, the share of an encoder that moves by its modality's significance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from asgml.methods.base import Method, Step
from asgml.methods.shared.draws import generator
from asgml.methods.shared.losses import cross_entropy, entropy
from callbacks.ranges import Bounds, NonNegative, Positive


def significance(step: Step, margin: float) -> dict[str, Tensor]:
    """Return the mutual information rate of every modality in the batch with the labels, 0-d, no gradient.

    `(H(y) - CE(z_m, y) + margin) / H(softmax(f_m))`, in nats.
    """
    with torch.no_grad():
        ones = step.logits.new_ones(len(step.y))
        labels = step.total(step.logits.new_zeros(step.logits.shape[1]).index_add_(0, step.y, ones))
        known = torch.special.entr(labels / labels.sum()).sum()
        out = {}
        for m in step.here:
            own = step.mean(entropy(step.features[m].detach().to(step.logits.dtype)), m)
            gained = known - cross_entropy(step, step.slices(m).detach(), m) + margin
            out[m] = gained / own.clamp(min=torch.finfo(own.dtype).tiny)
        return out


def shares(rates: Tensor, temperature: float, least: float) -> Tensor:
    """Return every modality's share (M,) of units that move, from rates (M,): 1 - softmax(rates / temperature).

    It is at least `least` and at most `1 - least`; 1/2 for all where a rate is not above 0.
    """
    found = (1 - torch.softmax(rates / temperature, 0)).clamp(least, 1 - least)
    return torch.where((rates > 0).all(), found, torch.full_like(found, 0.5))


def chosen(importance: Tensor, share: Tensor, draws: Tensor) -> Tensor:
    """Draw ceil(share * n) of n units without replacement, with probabilities as the importance (n,), to 0 and 1 (n,).

    The smallest of independent exponential variables with these rates, from uniform draws (n,): one sort, and the
    number of units stays on the device (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
    """
    n = len(importance)
    keys = torch.log(-torch.log(draws)) - torch.log(importance)
    last = (share * n).ceil().clamp(1, n).long() - 1
    return (keys <= keys.sort().values.gather(0, last[None])).to(importance.dtype)


def unbiased(importance: Tensor, share: Tensor, draws: Tensor) -> Tensor:
    """Draw each of n units by itself and weigh it by the inverse of its probability, (n,): every unit has the mean 1.

    The probability is that of share * n draws from the mean of importance (n,) and uniform distribution, at most 1.
    """
    n = len(importance)
    p = importance / importance.sum().clamp(min=torch.finfo(importance.dtype).tiny)
    inclusion = (share * n * (p + 1 / n) / 2).clamp(max=1)
    return torch.where(draws < inclusion, 1 / inclusion, 0.0)


@dataclass
class AMSS(Method):
    """AMSS (Yang et al., "Learning to Rebalance Multi-Modal Optimization by Adaptively Masking Subnetworks", TPAMI
    2025).

    In every step only a part of each encoder moves, the smaller the more its modality says about the labels. z_m is the
    slice of the fused logits, H(y) the entropy of the batch's labels:

        r_m = (H(y) - CE(z_m, y) + margin) / H(softmax(f_m)),
        rho_m = 1 - softmax_m(r / temperature) in [least, 1 - least],    1/2 for all where some r_m is not above 0

    In every weight of encoder m with 2 or more dimensions and n units (output channels, rows), ceil(rho_m n) units are
    drawn without replacement, with probabilities that grow as their empirical Fisher information, the sum of the
    squared gradient over the unit; the gradient of all others is 0. Momentum and weight decay reach them nevertheless,
    as in the authors' code. `unbiased` is AMSS+, whose masked gradient is the whole one in expectation.

    Formulas and constants are those of the authors' code for CREMA-D and Kinetics-Sounds, as the paper's text could not
    be consulted. That code has for H(y) the cross-entropy of the label frequencies with a softmax of themselves, near
    log C whatever they are; masks convolutions inside residual blocks, not the first one and those of the shortcuts;
    and draws a mask for the fusion's weight which it never applies (that for text and images does). It takes
    1/(p_i + 1/n) as the weight of a unit in AMSS+, p_i its share of the Fisher information, which without the factor
    2 / (rho_m n) multiplies gradients by up to n; here units are drawn independently with probability
    rho_m n (p_i + 1/n) / 2, at most 1, and weighted by its inverse, which is exactly unbiased.

    Biases and normalisation layers are not masked. More than two modalities: as above, which is the code's rule for
    three. Means are over the rows that have m, H(y) is over all. With a single modality in the batch nothing is masked.

    Attributes:
        temperature: temperature of the softmax over modalities; 0.2 on CREMA-D and Kinetics-Sounds, 0.5 on Sarcasm and
            Twitter-15.
        margin: term that keeps the rates above 0 at the beginning.
        least: smallest share of units that move, and of those that do not.
        unbiased: whether the masked gradient is made unbiased (AMSS+).
    """

    min_modalities: ClassVar[int] = 2
    temperature: Positive = 0.2
    margin: NonNegative = 0.5
    least: Annotated[float, Bounds("a share above 0, 0.5 at most", gt=0, le=0.5)] = 0.1
    unbiased: bool = False

    def setup(self) -> None:
        self.require("temperature", self.temperature > 0, "above 0")
        self.require("least", 0 < self.least <= 0.5, "above 0, and 0.5 at most")

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        rates = significance(step, self.margin)
        if len(rates) < 2:
            return set()
        found = shares(torch.stack(list(rates.values())), self.temperature, self.least)
        touched = set()
        for m, share in zip(rates, found.unbind(), strict=True):
            step.reads[f"amss/share/{m}"] = share
            gradients = [p.grad for p in groups.get(m, []) if p.grad is not None and p.dim() >= 2]
            if gradients:
                self._mask(step, m, gradients, share)
                touched.add(m)
        return touched

    def _mask(self, step: Step, m: str, gradients: Sequence[Tensor], share: Tensor) -> None:
        """Multiply the gradients of modality m by their masks, in place; the same ones on all ranks."""
        device, sizes = gradients[0].device, [len(g) for g in gradients]
        wide = torch.promote_types(gradients[0].dtype, torch.float32)
        random = torch.rand(
            sum(sizes), generator=generator(device, self._seed, "amss", m, step.t), device=device, dtype=wide
        )
        draw = unbiased if self.unbiased else chosen
        for g, u in zip(gradients, random.clamp(min=torch.finfo(wide).tiny).split(sizes), strict=True):
            importance = g.flatten(1).to(wide).square().sum(1)
            g.mul_(draw(importance, share.to(wide), u).to(g.dtype).view(-1, *[1] * (g.dim() - 1)))
