"""Treats the fused and the unimodal losses as the tasks of multi-task learning, which share the encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from asgml.methods.base import Method, Step
from asgml.methods.shared.losses import FUSED


def dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Return the inner product of two lists of tensors, 0-d."""
    return torch.stack([torch.sum(x * y) for x, y in zip(a, b, strict=True)]).sum()


class EncoderGradients(NamedTuple):
    """Holds the parameters of an encoder that fused and unimodal loss both reach, and the gradients of the two."""

    params: list[nn.Parameter]
    fused: list[Tensor]
    unimodal: list[Tensor]

    def apply(self, fused: Tensor, unimodal: Tensor) -> None:
        """Set `p.grad` to the sum of the two gradients under these weights, 0-d."""
        applied = torch._foreach_mul(self.fused, fused)
        torch._foreach_add_(applied, torch._foreach_mul(self.unimodal, unimodal))
        for p, g in zip(self.params, applied, strict=True):
            p.grad = g


def encoder_gradients(step: Step, groups: dict[str, list[nn.Parameter]]) -> dict[str, EncoderGradients]:
    """Return the gradients on every encoder that two tasks reach, after `Tasks.substeps`."""
    out = {}
    for m in step.here if step.gradients else ():
        parts = groups.get(m, []), step.gradients["fused"][m], step.gradients["unimodal"][m]
        reached = [(p, f, u) for p, f, u in zip(*parts, strict=True) if f is not None and u is not None]
        if reached:
            params, fused, unimodal = map(list, zip(*reached, strict=True))
            out[m] = EncoderGradients(params, fused, unimodal)
    return out


@dataclass
class TaskGradients:
    """Holds what the tasks ask of the weights that more than one of them reaches: those of the encoders.

    Task 0 is the fused loss, every other one the unimodal loss of an encoder, which reaches no other encoder: the
    unimodal gradients are orthogonal to each other.

    Attributes:
        encoders: gradients on every encoder, in the order of tasks 1 to N.
        gram: inner products of the tasks' gradients over all encoders, (N + 1, N + 1), an arrow: first row, first
            column and diagonal.
    """

    encoders: dict[str, EncoderGradients]
    gram: Tensor

    @property
    def tasks(self) -> list[str]:
        """List the names of the tasks: `fusion`, then modalities."""
        return [FUSED, *self.encoders]

    def apply(self, weights: Tensor) -> None:
        """Set `p.grad = sum_t weights[t] * g_t` on every encoder; weights (N + 1,)."""
        fused, *rest = weights.unbind()
        for encoder, own in zip(self.encoders.values(), rest, strict=True):
            encoder.apply(fused, own)


def task_gradients(step: Step, groups: dict[str, list[nn.Parameter]]) -> TaskGradients | None:
    """Return the tasks' gradients after `Tasks.substeps`; None where no encoder is reached by two tasks."""
    encoders = encoder_gradients(step, groups)
    if not encoders:
        return None
    own = torch.stack([dot(e.unimodal, e.unimodal) for e in encoders.values()])
    inner = torch.stack([dot(e.fused, e.unimodal) for e in encoders.values()])
    whole = torch.stack([dot(e.fused, e.fused) for e in encoders.values()]).sum()
    gram = torch.diag(torch.cat([whole[None], own]))
    gram[0, 1:], gram[1:, 0] = inner, inner
    return TaskGradients(encoders, gram)


@dataclass
class Tasks(Method):
    """Takes `L_fusion` and every `L_m` as the tasks of multi-task learning; subclasses weigh the tasks' gradients.

    The weights act on the encoders, which the tasks share; fusion and heads keep their own task's gradient. Two
    backward passes per step whatever N is. Terms of other methods belong to the fused task.
    """

    for_regression: ClassVar[bool] = True
    trains_heads: ClassVar[bool] = True

    def weights(self, step: Step, gradients: TaskGradients) -> Tensor:
        """Return the weights (N + 1,) under which the tasks' gradients are added up."""
        raise NotImplementedError

    def substeps(self, step: Step, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        own = [value for name, value in terms.items() if name in step.features]
        rest = [value for name, value in terms.items() if name not in step.features]
        return {"fused": torch.stack(rest).sum(), "unimodal": torch.stack(own).sum()} if own and rest else {}

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        found = task_gradients(step, groups)
        if found is None:
            return set()
        weights = self.weights(step, found)
        for task, w in zip(found.tasks, weights.unbind(), strict=True):
            step.reads[f"{type(self).__name__.lower()}/weight/{task}"] = w
        found.apply(weights)
        return set(found.encoders)
