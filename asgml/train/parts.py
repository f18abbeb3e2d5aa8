"""Several backward passes in one step, for methods that look at the gradient of each part of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor

from asgml.methods.base import Step
from callbacks.step.groups import Group


def backward_in_parts(
    step: Step, parts: Mapping[str, Tensor], monitors: list[Tensor], groups: Mapping[str, Group], backward: Callable
) -> None:
    """Make one backward pass per part, keep the gradients of each in `step.gradients`, and leave their sum in `p.grad`.

    Args:
        step: the step in progress.
        parts: the losses (0-d) by name, in order.
        monitors: losses of heads that no method trains; they join the last part.
        groups: the parameter groups by name.
        backward: the module's `manual_backward`.
    """
    names = list(parts)
    for name, loss in parts.items():
        last = name == names[-1]
        backward(torch.stack([loss, *monitors]).sum() if last else loss, retain_graph=not last)
        step.gradients[name] = {g: [p.grad for p in group.params] for g, group in groups.items()}
        for group in groups.values():
            group.clear()
    for g, group in groups.items():
        for p, found in zip(group.params, zip(*(step.gradients[n][g] for n in names), strict=True), strict=True):
            given = [x for x in found if x is not None]
            p.grad = reduce(torch.add, given) if given else None
