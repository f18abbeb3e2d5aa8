"""MGDA: multiple gradient descent on the tasks fused + unimodal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asgml.methods.base import Step
from asgml.methods.shared.losses import task_loss
from asgml.methods.shared.simplex import minimise, supports
from asgml.methods.shared.tasks import TaskGradients, Tasks


def min_norm(gram: Tensor) -> Tensor:
    """Minimise w^T gram w over the simplex, for an arrow (see `TaskGradients`); return w, (T,).

    Exact: for every set of tasks that may have a weight above 0 the minimum is known (all of them then have the same
    inner product with the combination), and the best one whose weights are not negative is taken.
    """
    g = gram / gram.diagonal().amax().clamp(min=torch.finfo(gram.dtype).tiny)
    whole, inner = g[0, 0], g[0, 1:]
    inverse = supports(len(inner), g) / g.diagonal()[1:].clamp(min=torch.finfo(g.dtype).eps ** 2)
    left = (whole - (inner.square() * inverse).sum(1)).clamp(min=0)  # |g_f|^2 outside the others' span
    apart = 1 - (inner * inverse).sum(1)
    total = inverse.sum(1)
    scale = 1 / (left * total + apart.square())
    first = (apart * scale)[:, None]
    with_fused = torch.cat([first, ((left * scale)[:, None] - first * inner) * inverse], dim=1)
    without = torch.cat([torch.zeros_like(first), inverse / total[:, None]], dim=1)
    return minimise(torch.cat([with_fused, without]), lambda w: ((w @ g) * w).sum(1))


@dataclass
class MGDA(Tasks):
    """MGDA (Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018).

    Tasks t: the fused loss and every unimodal loss; g_t their gradients with respect to all encoders together:

        applied:  sum_t w_t g_t,    w = argmin |sum_t w_t g_t|^2,  w_t >= 0,  sum_t w_t = 1

    which is 0 at a Pareto-stationary point and else descends every task's loss. Fusion and heads keep their own loss's
    gradient. The minimum is exact (published: Frank-Wolfe iterations). The weights add up to 1 and not to the number
    of tasks, so that steps are shorter than those of `uniform`. Any number of modalities; one that nobody in the
    batch has is no task of the step.

    Attributes:
        normalize: divisor of g_t while w is sought: `none` (published), `l2` its norm, `loss` L_t, `loss+` both (the
            authors' code); w acts on the plain gradients.
    """

    normalize: str = "none"

    def setup(self) -> None:
        known = ("none", "l2", "loss", "loss+")
        self.require("normalize", self.normalize in known, " or ".join(known))

    def weights(self, step: Step, gradients: TaskGradients) -> Tensor:
        gram = gradients.gram
        scale = torch.ones_like(gram[0])
        if self.normalize in ("l2", "loss+"):
            scale = gram.diagonal().sqrt().clamp(min=torch.finfo(gram.dtype).tiny)
        if self.normalize in ("loss", "loss+"):
            scale = scale * task_losses(step, list(gradients.encoders)).to(scale.dtype)
        return min_norm(gram / (scale[:, None] * scale))


def task_losses(step: Step, modalities: list[str]) -> Tensor:
    """Return L_fusion and L_m of `modalities` over all ranks, (N + 1,), no gradient."""
    with torch.no_grad():
        own = [task_loss(step, step.unimodal[m].detach(), m) for m in modalities]
        return torch.stack([task_loss(step, step.logits.detach()), *own])
