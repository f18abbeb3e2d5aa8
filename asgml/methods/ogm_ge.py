"""OGM-GE: on-the-fly gradient modulation with generalisation enhancement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from asgml.methods.base import Method, Step, confidence
from asgml.methods.shared.noise import NoiseTable
from callbacks.errors import UserError


def discrepancy(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """`rho_m`: mean over the other modalities of p_m / p_k (one ratio for two modalities, Peng et al. 2022, Eq.
    8)."""
    return {
        m: torch.stack([p / q.clamp(min=1e-12) for k, q in scores.items() if k != m]).mean(0) for m, p in scores.items()
    }


def coefficient(rho: Tensor, alpha: float) -> Tensor:
    """`k = 1 - tanh(alpha * rho)` where rho > 1, else 1 (Eq. 10)."""
    return torch.where(rho > 1, 1 - torch.tanh(alpha * rho), torch.ones_like(rho))


@dataclass
class OGMGE(Method):
    """OGM-GE (Peng et al., "Balanced Multimodal Learning via On-the-fly Gradient Modulation", CVPR 2022).

    p_m = sum_i softmax(z_m)[y_i] over the batch, z_m the slice of the fused logits; rho_m = mean over the others
    of p_m / p_k;
    the gradient of the convolution kernels (parameters with 4 dimensions) of encoder m is multiplied by k_m = 1 -
    tanh(alpha * rho_m)
    where rho_m > 1, and Gaussian noise N(0, std(g)^2) is added (generalisation enhancement), std of the
    unmodulated gradient, the noise from a shared table (`NoiseTable`).
    More than two modalities: the mean ratio above. p_m is a mean over the samples that have m, so that missing
        rows do not
    tilt the ratio; with complete batches this is the published sum up to a common factor.

    Encoders without convolution kernels have nothing to modulate; that is refused rather than ignored. `kernels:
    all` modulates every encoder parameter with 2 or more dimensions instead. Under Adam-like optimisers the
    factor cancels in the update (only the noise acts); the published recipe is SGD. The ratio never leaves the
    device.

    Attributes:
        alpha: 0.8 on CREMA-D, 0.1 on VGGSound.
        modulation_starts: first epoch of the modulation.
        modulation_ends: epoch before which it ends (published: 0 to 50).
        noise: add the Gaussian noise (GE) or not (plain OGM).
        kernels: `conv` (published) or `all`.
    """

    alpha: float = 0.8
    modulation_starts: int = 0
    modulation_ends: int = 50
    noise: bool = True
    kernels: str = "conv"
    _table: NoiseTable = field(default_factory=lambda: NoiseTable(0), repr=False)

    def setup(self, modalities: list[str], classes: int, seed: int) -> None:
        if len(modalities) < 2:
            raise UserError(
                "method=ogm_ge",
                f"modalities {modalities}",
                "two or more",
                "with one modality there is nothing to balance: use method=joint",
            )
        if self.kernels not in ("conv", "all"):
            raise UserError("methods.ogm_ge.kernels", self.kernels, "conv or all", "conv is the published choice")
        self._table = NoiseTable(seed)

    def acts_from(self) -> tuple[str, int]:
        return "modulation_starts", self.modulation_starts

    def scores(self, step: Step) -> dict[str, Tensor]:
        """p_m as a mean over present rows and ranks, of the modalities that somebody in the batch has."""
        here = [m for m in step.modalities if m in step.losses]
        with torch.no_grad():
            return {m: step.mean(confidence(step.slices(m).detach(), step.y), m) for m in here}

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        if not self.modulation_starts <= step.epoch < self.modulation_ends:
            return set()
        scores = self.scores(step)
        if len(scores) < 2:
            return set()  # p_k = 0 of an absent modality would silence the others
        rho = discrepancy(scores)
        dims = 4 if self.kernels == "conv" else 2
        touched: set[str] = set()
        for m, ratio in rho.items():
            chosen = [p for p in groups.get(m, []) if (p.dim() == dims if self.kernels == "conv" else p.dim() >= dims)]
            if not chosen:
                raise UserError(
                    "method=ogm_ge",
                    f"encoder '{m}' has no convolution kernels",
                    "parameters with 4 dimensions",
                    "methods.ogm_ge.kernels=all modulates every weight matrix",
                )
            gradients = [p.grad for p in chosen if p.grad is not None]
            if not gradients:
                continue
            k = coefficient(ratio, self.alpha).to(gradients[0].dtype)
            modulate(gradients, k, self._table.slices(gradients, f"{step.t}/{m}") if self.noise else None)
            touched.add(m)
        return touched


def modulate(gradients: Sequence[Tensor], k: Tensor, noise: Sequence[Tensor] | None) -> None:
    """g <- k g + std(g) n in place, n from N(0, 1)."""
    spreads = [] if noise is None else [spread(g) + 1e-8 for g in gradients]
    torch._foreach_mul_(list(gradients), k)
    if noise is not None:
        for g, std, n in zip(gradients, spreads, noise, strict=True):
            g.addcmul_(n, std)


def spread(g: Tensor) -> Tensor:
    """Unbiased standard deviation, from two passes that the CPU has vectorised (`std` takes three times as long)."""
    n, wide = g.numel(), torch.promote_types(g.dtype, torch.float32)
    if n < 2:
        return g.new_zeros(())
    square = torch.linalg.vector_norm(g, dtype=wide).square() - n * g.mean(dtype=wide).square()
    return (square / (n - 1)).clamp(min=0).sqrt().to(g.dtype)
