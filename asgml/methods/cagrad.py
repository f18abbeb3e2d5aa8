"""CAGrad: conflict-averse gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asgml.methods.base import Step
from asgml.methods.shared.simplex import minimise, supports
from asgml.methods.shared.tasks import TaskGradients, Tasks
from callbacks.ranges import OpenShare


def worst_case(gram: Tensor, radius: Tensor) -> Tensor:
    """Minimise `g_w . g_0 + radius * |g_w|` over the simplex, g_w = sum_t w_t g_t, g_0 the mean; return w, (T,).

    Exact, for an arrow (see `TaskGradients`): on a set S of tasks the minimum has `w = (mu G^-1 1 - G^-1 b) / sqrt(d)`
    with b = G 1/T, p = 1 G^-1 1, q = 1 G^-1 b, r = b G^-1 b, d = q^2 - p (r - radius^2), mu = (q + sqrt(d)) / p, all on
    S; the best S without negative weights is taken.
    """
    norm = gram.diagonal().amax().clamp(min=torch.finfo(gram.dtype).tiny)
    g, s = gram / norm, radius / norm.sqrt()
    b = g.mean(1)
    whole, inner = g[0, 0], g[0, 1:]
    small = torch.finfo(g.dtype).eps ** 2
    inside = supports(len(inner), g)
    inverse = inside / g.diagonal()[1:].clamp(min=small)
    left = (whole - (inner.square() * inverse).sum(1)).clamp(min=small)

    def solved(y: Tensor, fused: bool) -> Tensor:
        """Return G^-1 y on every set, with or without task 0."""
        first = (y[0] - (inner * y[1:] * inverse).sum(1)) / left if fused else torch.zeros_like(left)
        return torch.cat([first[:, None], (y[1:] - inner * first[:, None]) * inverse], dim=1)

    found = []
    for fused in (True, False):
        ones, mean = solved(torch.ones_like(b), fused), solved(b, fused)
        p, q, r = ones.sum(1), mean.sum(1), (mean * b).sum(1)
        root = (q.square() - p * (r - s.square())).sqrt()
        mu = (q + root) / p
        found.append((mu[:, None] * ones - mean) / root[:, None])
    return minimise(torch.cat(found), lambda w: w @ b + s * ((w @ g) * w).sum(1).clamp(min=0).sqrt())


@dataclass
class CAGrad(Tasks):
    """CAGrad (Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021).

    Tasks t: the fused loss and every unimodal loss, T in all; g_t their gradients with respect to all encoders
    together, g_0 = sum_t g_t / T, g_w = sum_t w_t g_t:

        w = argmin over the simplex of  g_w . g_0 + c |g_0| |g_w|
        applied:  g_0 + c |g_0| g_w / |g_w|

    the direction within c |g_0| of g_0 that improves the worst task most. Fusion and heads keep their own loss's
    gradient. The minimum is exact. As printed; public code multiplies the result by T / (1 + c^2). Any number of
    modalities; one that nobody in the batch has is no task of the step.

    Attributes:
        c: radius around the mean gradient, in units of its length, in (0, 1).
    """

    c: OpenShare = 0.4

    def setup(self) -> None:
        self.require("c", 0 < self.c < 1, "above 0 and below 1")

    def weights(self, step: Step, gradients: TaskGradients) -> Tensor:
        gram = gradients.gram
        radius = self.c * gram.mean().clamp(min=0).sqrt()  # |g_0|^2 = 1 G 1 / T^2
        w = worst_case(gram, radius)
        length = (w @ gram @ w).clamp(min=torch.finfo(gram.dtype).tiny).sqrt()
        return 1 / len(gram) + radius / length * w
