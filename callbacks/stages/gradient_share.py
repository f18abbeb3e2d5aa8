"""gradient_share: how much gradient a branch leaves to the module it was added to."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

THRESHOLD = 0.8


@dataclass
class GradientShare:
    """`share`: mean over seeds of ‖g with branch‖ / ‖g without branch‖ at the module; `norm_ratio`: mean ‖branch‖
    / ‖stream‖."""

    share: float
    shares: list[float]
    norm_ratio: float | None


def gradient_norm(module: nn.Module, loss: Tensor) -> float:
    """L2 norm of d loss / d parameters of the module (0 for parameters the loss does not reach)."""
    params = [p for p in module.parameters() if p.requires_grad]
    gradients = [g for g in torch.autograd.grad(loss, params, allow_unused=True) if g is not None]
    if not gradients:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))


def gradient_share(
    module_under_test: nn.Module,
    loss: Callable[[int], Tensor],
    without_branch: Callable[[], AbstractContextManager[None]],
    seeds: Sequence[int],
    norms: Callable[[], tuple[float, float]] | None = None,
) -> GradientShare:
    """The gradient norm that reaches a module with and without a given branch, as a mean over seeds (asgml.md
    §6).

    Args:
        module_under_test: e.g. an adapter that a new residual branch might starve.
        loss: `loss(seed)` runs the forward pass (its initialisation or batch drawn from the seed) and returns
            the scalar loss.
        without_branch: context manager that switches the branch off.
        seeds: one draw is noise; use at least ten.
        norms: after a forward pass with the branch, `(‖branch output‖, ‖stream‖)`.

    Returns:
        The shares; a mean below 0.8 warns.

    Raises:
        ValueError: the module gets no gradient even without the branch.
    """
    shares, ratios = [], []
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
    share = sum(shares) / len(shares)
    if share < THRESHOLD:
        warnings.warn(
            f"the branch leaves {type(module_under_test).__name__} only {share:.0%} of its gradient "
            f"(below {THRESHOLD:.0%}): "
            "normalise the branch, match its norm to the stream and scale it (0.1)",
            stacklevel=2,
        )
    return GradientShare(share, shares, sum(ratios) / len(ratios) if ratios else None)
