"""MMPareto: Pareto weights for the gradients of fused and unimodal loss on each encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from asgml.methods.base import Gradients, Method, Step
from callbacks.errors import UserError


def pareto_weight(fused: Tensor, unimodal: Tensor, inner: Tensor) -> Tensor:
    """Weight of the fused gradient: 1/2 where the two do not conflict, else that of the shorter combination.

    Args:
        fused, unimodal: squared norms. inner: inner product. All 0-d.

    `argmin_w |w g_f + (1 - w) g_u|` is `(|g_u|^2 - g_f.g_u) / |g_f - g_u|^2`, which for g_f.g_u < 0 lies in (0, 1).
    """
    distance = (fused + unimodal - 2 * inner).clamp(min=torch.finfo(inner.dtype).tiny)
    return torch.where(inner >= 0, 0.5, (unimodal - inner) / distance)


@dataclass
class MMPareto(Method):
    """MMPareto (Wei and Hu, "MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML 2024).

    `L = L_fusion + sum_m L_m`. Encoder m receives g_f from the fused loss and g_u from its own unimodal loss (one
    vector each over all its parameters):

        cos(g_f, g_u) >= 0:  h = g_f / 2 + g_u / 2
        else:                h = w g_f + (1 - w) g_u,  w = argmin |w g_f + (1 - w) g_u|
        applied:             rescale * h / |h| * |g_f + g_u|

    the norm of the plain sum is restored and raised by `rescale` (1.5), since the noise of a larger gradient helps
    generalisation. Fusion and heads keep their gradients. Two backward passes per step, whatever the number of
    modalities: an encoder is reached by two losses only. A modality that nobody in the batch has is left alone.

    Attributes:
        rescale: factor on the restored norm; 1.5 published.
    """

    trains_heads: ClassVar[bool] = True
    rescale: float = 1.5

    def setup(self, modalities: list[str], classes: int, seed: int) -> None:
        if self.rescale <= 0:
            raise UserError("methods.mmpareto.rescale", str(self.rescale), "above 0", "1.5 is the published choice")

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {m: step.losses[m] for m in step.here}

    def substeps(self, step: Step, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        own = [value for name, value in terms.items() if name in step.features]
        rest = [value for name, value in terms.items() if name not in step.features]
        return {"fused": torch.stack(rest).sum(), "unimodal": torch.stack(own).sum()} if own and rest else {}

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        touched: set[str] = set()
        if not step.gradients:
            return touched
        for m in step.here:
            kept = pairs(groups.get(m, []), step.gradients["fused"][m], step.gradients["unimodal"][m])
            if not kept:
                continue
            params, fused, unimodal = kept
            ff, uu, fu = dot(fused, fused), dot(unimodal, unimodal), dot(fused, unimodal)
            w = pareto_weight(ff, uu, fu)
            mixed = w * w * ff + (1 - w) ** 2 * uu + 2 * w * (1 - w) * fu  # squared norm of the combination
            scale = self.rescale * ((ff + uu + 2 * fu) / mixed.clamp(min=torch.finfo(w.dtype).tiny)).sqrt()
            applied = torch._foreach_mul(fused, scale * w)
            torch._foreach_add_(applied, torch._foreach_mul(unimodal, scale * (1 - w)))
            for p, g in zip(params, applied, strict=True):
                p.grad = g
            step.reads[f"mmpareto/weight/{m}"] = w
            touched.add(m)
        return touched


def dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Inner product of two lists of tensors (0-d)."""
    return torch.stack([torch.sum(x * y) for x, y in zip(a, b, strict=True)]).sum()


def pairs(
    params: list[nn.Parameter], a: Gradients, b: Gradients
) -> tuple[list[nn.Parameter], list[Tensor], list[Tensor]] | None:
    """The parameters that both losses reach, with their two gradients; None where there is none."""
    both = [(p, x, y) for p, x, y in zip(params, a, b, strict=True) if x is not None and y is not None]
    if not both:
        return None
    return [p for p, _, _ in both], [x for _, x, _ in both], [y for _, _, y in both]
