"""MGDA: multiple gradient descent on the tasks fused + unimodal, and what the multi-task methods share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asgml.methods.base import Method, Step
from asgml.methods.mmpareto import dot, pairs
from callbacks.errors import UserError

FUSED = "fusion"


@dataclass
class Shared:
    """What the tasks ask of the weights that more than one of them reaches: those of the encoders.

    Task 0 is the fused loss, task i the unimodal loss of `names[i - 1]`, which reaches no other encoder: the unimodal
    gradients are orthogonal to each other, and `gram` (N + 1, N + 1), the inner products of the tasks' gradients over
    all encoders, is an arrow: first row, first column and diagonal.
    """

    names: list[str]
    params: dict[str, list[nn.Parameter]]
    fused: dict[str, list[Tensor]]
    unimodal: dict[str, list[Tensor]]
    gram: Tensor

    @property
    def tasks(self) -> list[str]:
        return [FUSED, *self.names]

    def apply(self, weights: Tensor) -> None:
        """`p.grad = sum_t weights[t] * g_t` on every encoder; weights (N + 1,)."""
        first, *rest = weights.unbind()
        for m, own in zip(self.names, rest, strict=True):
            applied = torch._foreach_mul(self.fused[m], first)
            torch._foreach_add_(applied, torch._foreach_mul(self.unimodal[m], own))
            for p, g in zip(self.params[m], applied, strict=True):
                p.grad = g


def shared(step: Step, groups: dict[str, list[nn.Parameter]]) -> Shared | None:
    """After `Tasks.substeps`; None where no encoder is reached by two tasks."""
    if not step.gradients:
        return None
    params, fused, unimodal = {}, {}, {}
    for m in step.here:
        kept = pairs(groups.get(m, []), step.gradients["fused"][m], step.gradients["unimodal"][m])
        if kept:
            params[m], fused[m], unimodal[m] = kept
    if not params:
        return None
    own = torch.stack([dot(g, g) for g in unimodal.values()])
    inner = torch.stack([dot(fused[m], unimodal[m]) for m in params])
    whole = torch.stack([dot(g, g) for g in fused.values()]).sum()
    gram = torch.diag(torch.cat([whole[None], own]))
    gram[0, 1:], gram[1:, 0] = inner, inner
    return Shared(list(params), params, fused, unimodal, gram)


@dataclass
class Tasks(Method):
    """`L_fusion` and every `L_m` as the tasks of multi-task learning; subclasses weigh the tasks' gradients.

    The weights act on the encoders, which the tasks share; fusion and heads keep their own task's gradient. Two
    backward passes per step whatever N is. Terms of other methods belong to the fused task.
    """

    trains_heads: ClassVar[bool] = True

    def weights(self, step: Step, shared: Shared) -> Tensor:
        """(N + 1,): the applied gradient is their sum with the tasks' gradients."""
        raise NotImplementedError

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {m: step.losses[m] for m in step.here}

    def substeps(self, step: Step, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        own = [value for name, value in terms.items() if name in step.features]
        rest = [value for name, value in terms.items() if name not in step.features]
        return {"fused": torch.stack(rest).sum(), "unimodal": torch.stack(own).sum()} if own and rest else {}

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        found = shared(step, groups)
        if found is None:
            return set()
        weights = self.weights(step, found)
        for task, w in zip(found.tasks, weights.unbind(), strict=True):
            step.reads[f"{type(self).__name__.lower()}/weight/{task}"] = w
        found.apply(weights)
        return set(found.names)


def minimise(candidates: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """The candidate (K, T) on the simplex with the smallest objective, (T,); NaN and negative ones are left out."""
    slack = -(torch.finfo(candidates.dtype).eps ** 0.5)
    feasible = (candidates >= slack).all(1)
    candidates = torch.where(feasible[:, None], candidates, 1 / candidates.shape[1]).clamp(min=0)
    candidates = candidates / candidates.sum(1, keepdim=True)
    value = torch.where(feasible, objective(candidates), torch.inf)
    return candidates.index_select(0, value.argmin()[None])[0]


def supports(n: int, like: Tensor) -> Tensor:
    """All subsets of n things, (2^n, n) of 0 and 1."""
    bits = torch.arange(2**n, device=like.device)[:, None] >> torch.arange(n, device=like.device)
    return (bits & 1).to(like.dtype)


def min_norm(gram: Tensor) -> Tensor:
    """argmin over the simplex of w^T gram w, for an arrow (see `Shared`); (T,).

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
        normalize: `none` (published); `l2`, `loss` and `loss+` divide g_t by its norm, by L_t, by both, before w is
            sought (the authors' code; w acts on the plain gradients).
    """

    normalize: str = "none"

    def setup(self, modalities: list[str], classes: int, seed: int) -> None:
        known = ("none", "l2", "loss", "loss+")
        if self.normalize not in known:
            raise UserError("methods.mgda.normalize", self.normalize, " or ".join(known), "none is the published one")

    def weights(self, step: Step, shared: Shared) -> Tensor:
        gram, tiny = shared.gram, torch.finfo(shared.gram.dtype).tiny
        scale = torch.ones_like(gram[0])
        if self.normalize in ("l2", "loss+"):
            scale = gram.diagonal().sqrt().clamp(min=tiny)
        if self.normalize in ("loss", "loss+"):
            scale = scale * task_losses(step, shared.names).to(scale.dtype)
        return min_norm(gram / (scale[:, None] * scale))


def task_losses(step: Step, names: list[str]) -> Tensor:
    """L_fusion and L_m of `names` over all ranks, (N + 1,), no gradient."""
    with torch.no_grad():
        fused = step.mean(F.cross_entropy(step.logits.detach(), step.y, reduction="none"), None)
        own = [step.mean(F.cross_entropy(step.unimodal[m].detach(), step.y, reduction="none"), m) for m in names]
        return torch.stack([fused, *own])
