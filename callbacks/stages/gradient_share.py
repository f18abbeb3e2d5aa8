"""gradient_share: how much gradient a branch leaves to the module it was added to (specification A6.3)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

THRESHOLD = 0.8


@dataclass
class GradientShare:
    """Holds what `gradient_share` has measured.

    Attributes:
        share: the mean of `shares`.
        shares: per seed, the gradient norm at the module with the branch over that without it.
        norm_ratio: the mean over seeds of ‖branch output‖ / ‖stream‖, None where it was not measured.
        references: per seed, the gradient norm without the branch: the denominator of its share.
    """

    share: float
    shares: list[float]
    norm_ratio: float | None
    references: list[float]


def gradient_norm(module: nn.Module, loss: Tensor) -> float:
    """Return the L2 norm of d loss / d parameters of a module, 0 where the loss reaches none of them."""
    return float(gradient_norms([module.parameters()], loss)[0])


def gradient_norms(groups: Sequence[Iterable[nn.Parameter]], loss: Tensor) -> Tensor:
    """Return the L2 norm of d loss / d parameters of each group, (G,) on the device; 0 where the loss does not reach.

    Args:
        groups: the parameters of each group; frozen ones are left out.
        loss: a 0-d tensor with a graph.
    """
    trained = [[p for p in params if p.requires_grad] for params in groups]
    flat = [p for params in trained for p in params]
    found = torch.autograd.grad(loss, flat, allow_unused=True) if flat and loss.requires_grad else [None] * len(flat)
    by_parameter = iter(found)
    norms = []
    for params in trained:
        gradients = [g for _ in params if (g := next(by_parameter)) is not None]
        own = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) if gradients else loss.new_zeros(())
        norms.append(own.detach())
    return torch.stack(norms)


def advice(name: str, share: float, norm_ratio: float | None) -> str:
    """Return one sentence on a branch that leaves a module too little gradient, and what to do."""
    beside = "" if norm_ratio is None else f", at {norm_ratio:.2g} times the norm of its stream,"
    return (
        f"the branch{beside} leaves {name} only {share:.0%} of its gradient (below {THRESHOLD:.0%}): "
        "normalise the branch, match its norm to the stream and scale it (0.1)"
    )


def gradient_share(
    module_under_test: nn.Module,
    loss: Callable[[int], Tensor],
    without_branch: Callable[[], AbstractContextManager[None]],
    seeds: Sequence[int],
    norms: Callable[[], tuple[float, float]] | None = None,
    warn: bool = True,
) -> GradientShare:
    """Measure the gradient norm that reaches a module with a branch over that without it, as a mean over seeds.

    A mean below 0.8 warns.

    Args:
        module_under_test: the module that the branch might starve, e.g. an adapter beside a new residual branch.
        loss: `loss(seed)` runs the forward pass (its initialisation or batch drawn from the seed) and returns the
            scalar loss.
        without_branch: a context manager that switches the branch off.
        seeds: the seeds, at least ten of them: one draw is noise.
        norms: a function that returns `(‖branch output‖, ‖stream‖)` of the last forward pass with the branch.
        warn: whether a mean below 0.8 warns.

    Raises:
        ValueError: the module gets no gradient even without the branch.
    """
    shares, ratios, references = [], [], []
    for seed in seeds:
        with_branch = gradient_norm(module_under_test, loss(seed))
        if norms is not None:
            branch, stream = norms()
            ratios.append(branch / stream)
        with without_branch():
            reference = gradient_norm(module_under_test, loss(seed))
        if reference == 0.0:
            raise ValueError(
                f"{type(module_under_test).__name__} gets no gradient even without the branch (seed {seed})"
            )
        shares.append(with_branch / reference)
        references.append(reference)
    share = sum(shares) / len(shares)
    ratio = sum(ratios) / len(ratios) if ratios else None
    if warn and share < THRESHOLD:
        warnings.warn(advice(type(module_under_test).__name__, share, ratio), stacklevel=2)
    return GradientShare(share, shares, ratio, references)
