"""OGM-GE: on-the-fly gradient modulation with generalisation enhancement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from asgml.methods.base import Method, Step
from asgml.methods.shared.confidence import discrepancy, scores
from asgml.methods.shared.draws import NoiseTable
from callbacks.errors import UserError
from callbacks.ranges import NonNegative, Steps


def coefficient(rho: Tensor, alpha: float) -> Tensor:
    """Return `k = 1 - tanh(alpha * rho)` where rho > 1, else 1 (Eq. 10)."""
    return torch.where(rho > 1, 1 - torch.tanh(alpha * rho), torch.ones_like(rho))


@dataclass
class OGMGE(Method):
    """OGM-GE (Peng et al., "Balanced Multimodal Learning via On-the-fly Gradient Modulation", CVPR 2022).

    p_m = sum_i softmax(z_m)[y_i] over the batch, z_m the slice of the fused logits; rho_m = mean over the others of
    p_m / p_k; in encoder m, the gradient g of every convolution kernel (parameters with 4 dimensions) becomes

        k_m g + N(0, std(g)^2),    k_m = 1 - tanh(alpha * rho_m)   where rho_m > 1, else 1

    The noise is the generalisation enhancement; it comes from a shared table (`NoiseTable`). More than two modalities:
    the mean ratio above. p_m is a mean over the samples that have m, so that missing rows do not tilt the ratio; with
    complete batches this is the published sum up to a common factor.

    The method was published for ResNet18; an encoder without such kernels (a vector's, a sequence's) has every
    parameter of 2 or more dimensions modulated instead (`kernels: auto`). `conv` refuses such an encoder, `all` treats
    every encoder so. Under Adam-like optimisers the factor cancels in the update (only the noise acts); the published
    recipe is SGD. The ratio never leaves the device.

    Attributes:
        alpha: strength of the modulation; 0.8 on CREMA-D, 0.1 on VGGSound.
        begins: first epoch of the modulation.
        ends: epoch before which it ends; published are epochs 0 to 50, both included.
        noise: whether the Gaussian noise is added (GE) or not (plain OGM).
        kernels: the parameters that are modulated: those with 4 dimensions (`conv`), with 2 or more (`all`), or `conv`
            where an encoder has any, else `all` (`auto`).
    """

    min_modalities: ClassVar[int] = 2
    alpha: NonNegative = 0.8
    begins: Steps = 0
    ends: Steps = 51
    noise: bool = True
    kernels: str = "auto"
    _table: NoiseTable = field(default_factory=lambda: NoiseTable(0), init=False, repr=False)

    def setup(self) -> None:
        self.require("kernels", self.kernels in ("auto", "conv", "all"), "auto, conv or all")
        self._table = NoiseTable(self._seed)

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        here = step.here  # p_k = 0 of an absent modality would silence the others
        if not self.begins <= step.epoch < self.ends or len(here) < 2:
            return set()
        with torch.no_grad():
            rho = discrepancy(scores(step, {m: step.slices(m) for m in here}))
        touched: set[str] = set()
        for m, ratio in rho.items():
            chosen = modulated(groups.get(m, []), self.kernels)
            if not chosen and self.kernels == "conv":
                found = f"encoder '{m}' has no convolution kernels"
                remedy = f"methods.{self._name}.kernels=all"
                raise UserError(f"method={self._name}", found, "parameters with 4 dimensions", remedy)
            gradients = [p.grad for p in chosen if p.grad is not None]
            if not gradients:
                continue
            k = coefficient(ratio, self.alpha).to(gradients[0].dtype)
            modulate(gradients, k, self._table.slices(gradients, f"{step.t}/{m}") if self.noise else None)
            touched.add(m)
        return touched


def modulated(params: Sequence[nn.Parameter], kernels: str) -> list[nn.Parameter]:
    """Return the parameters of an encoder that are modulated under `kernels` (see `OGMGE`)."""
    convolutions = [p for p in params if p.dim() == 4]
    if kernels == "conv" or (kernels == "auto" and convolutions):
        return convolutions
    return [p for p in params if p.dim() >= 2]


def modulate(gradients: Sequence[Tensor], k: Tensor, noise: Sequence[Tensor] | None) -> None:
    """Make every g `k g + std(g) n` in place, n from N(0, 1)."""
    spreads = [] if noise is None else [spread(g) + 1e-8 for g in gradients]
    torch._foreach_mul_(list(gradients), k)
    if noise is not None:
        for g, std, n in zip(gradients, spreads, noise, strict=True):
            g.addcmul_(n, std)


def spread(g: Tensor) -> Tensor:
    """Return the unbiased standard deviation, by two vectorised passes (`std` on a CPU takes three times as long)."""
    n, wide = g.numel(), torch.promote_types(g.dtype, torch.float32)
    if n < 2:
        return g.new_zeros(())
    square = torch.linalg.vector_norm(g, dtype=wide).square() - n * g.mean(dtype=wide).square()
    return (square / (n - 1)).clamp(min=0).sqrt().to(g.dtype)
