"""MMPareto: Pareto weights for the gradients of fused and unimodal loss on each encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asgml.methods.base import Step
from asgml.methods.shared.tasks import Tasks, dot, encoder_gradients
from callbacks.ranges import Positive


def pareto_weight(fused: Tensor, unimodal: Tensor, inner: Tensor) -> Tensor:
    """Weigh the fused gradient: 1/2 where the two do not conflict, else as in the shortest combination.

    `argmin_w |w g_f + (1 - w) g_u|` is `(|g_u|^2 - g_f.g_u) / |g_f - g_u|^2`, which for g_f.g_u < 0 lies in (0, 1).

    Args:
        fused: squared norm of the fused gradient, 0-d.
        unimodal: squared norm of the unimodal gradient, 0-d.
        inner: inner product of the two, 0-d.
    """
    distance = (fused + unimodal - 2 * inner).clamp(min=torch.finfo(inner.dtype).tiny)
    return torch.where(inner >= 0, 0.5, (unimodal - inner) / distance)


@dataclass
class MMPareto(Tasks):
    """MMPareto (Wei and Hu, "MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML 2024).

    `L = L_fusion + sum_m L_m`. Encoder m receives g_f from the fused loss and g_u from its own unimodal loss (one
    vector each over all its parameters):

        cos(g_f, g_u) >= 0:  h = g_f / 2 + g_u / 2
        else:                h = w g_f + (1 - w) g_u,  w = argmin |w g_f + (1 - w) g_u|
        applied:             rescale * h / |h| * |g_f + g_u|

    the norm of the plain sum is restored and raised by `rescale` (1.5), since the noise of a larger gradient helps
    generalisation. Fusion and heads keep their gradients. Two backward passes per step, whatever the number of
    modalities: an encoder is reached by two losses only. A modality that nobody in the batch has is left alone.

    The norm is restored once for a whole encoder, as the paper writes it. The authors' code restores it tensor by
    tensor, which turns the direction, and only where the combination is the shorter one.

    Attributes:
        rescale: factor on the restored norm; 1.5 published.
    """

    rescale: Positive = 1.5

    def setup(self) -> None:
        self.require("rescale", self.rescale > 0, "above 0")

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        encoders = encoder_gradients(step, groups)
        for m, g in encoders.items():
            ff, uu, fu = dot(g.fused, g.fused), dot(g.unimodal, g.unimodal), dot(g.fused, g.unimodal)
            w = pareto_weight(ff, uu, fu)
            mixed = w * w * ff + (1 - w) ** 2 * uu + 2 * w * (1 - w) * fu  # squared norm of the combination
            scale = self.rescale * ((ff + uu + 2 * fu) / mixed.clamp(min=torch.finfo(w.dtype).tiny)).sqrt()
            g.apply(scale * w, scale * (1 - w))
            step.reads[f"mmpareto/weight/{m}"] = w
        return set(encoders)
