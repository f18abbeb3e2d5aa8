"""gradient_share: how much gradient a branch leaves to the module it was added to (specification A6.3)."""

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
    """Holds what `gradient_share` has measured.

    Attributes:
        share: the mean of `shares`.
        shares: per seed, the gradient norm at the module with the branch over that without it.
        norm_ratio: the mean over seeds of ‖branch output‖ / ‖stream‖, None where it was not measured.
    """

    share: float
    shares: list[float]
    norm_ratio: float | None


def gradient_norm(module: nn.Module, loss: Tensor) -> float:
    """Return the L2 norm of d loss / d parameters of a module, 0 where the loss reaches none of them."""
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
    """Measure the gradient norm that reaches a module with a branch over that without it, as a mean over seeds.

    A mean below 0.8 warns.

    Args:
        module_under_test: the module that the branch might starve, e.g. an adapter beside a new residual branch.
        loss: `loss(seed)` runs the forward pass (its initialisation or batch drawn from the seed) and returns the
            scalar loss.
        without_branch: a context manager that switches the branch off.
        seeds: the seeds, at least ten of them: one draw is noise.
        norms: a function that returns `(‖branch output‖, ‖stream‖)` of the last forward pass with the branch.

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
            f"(below {THRESHOLD:.0%}): normalise the branch, match its norm to the stream and scale it (0.1)",
            stacklevel=2,
        )
    return GradientShare(share, shares, sum(ratios) / len(ratios) if ratios else None)
