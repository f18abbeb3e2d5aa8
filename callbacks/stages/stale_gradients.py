"""What a delayed group keeps: the stamps of its gradients (specification A2.4) and the gradients themselves (A2.10)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from callbacks.step.groups import Group

EMPTY = -1


@dataclass
class Due:
    """Tells what a delayed group does in a step.

    Attributes:
        action: what the group does: `update`, `hold` or `missing`.
        stamp: the stamp of the gradient that an update applies; -1 for the other actions.
    """

    action: Literal["update", "hold", "missing"]
    stamp: int = EMPTY


@dataclass
class Stamps:
    """Counts, on the host, which gradient of a group lies where and what has been applied (specification A2.4).

    A stamp is the committed step at which a gradient was computed. Every stamp is applied at most once, and applied
    stamps only increase; stamps that are overtaken are counted as dropped.

    Attributes:
        capacity: the number of slots, the largest delay + 1; the gradient of step t lies in slot `t % capacity`.
        stored: per slot the stamp of its gradient, -1 where it is empty.
        last: the newest stamp that was applied, -1 before any.
        applied: the number of steps in which a gradient was applied.
        held: the number of steps in which the group had a gradient and stood still.
        dropped: the number of stamps that will never be applied.
        missing: the number of steps without a fresh gradient.
    """

    capacity: int
    stored: list[int] = field(default_factory=list)
    last: int = -1
    applied: int = 0
    held: int = 0
    dropped: int = 0
    missing: int = 0

    def __post_init__(self) -> None:
        self.stored = self.stored or [EMPTY] * self.capacity

    def due(self, t: int, tau: int, present: bool, warmup: str) -> Due:
        """Return what the group does at committed step t.

        Args:
            t: the number of committed steps.
            tau: the delay, in committed steps.
            present: whether the group has a fresh gradient.
            warmup: what happens before a gradient of age tau exists: `skip` or `fresh`.
        """
        if not present:
            return Due("missing")
        stamp = t - tau
        if stamp < 0:
            return Due("update", t) if warmup == "fresh" else Due("hold")
        known = stamp == t or self.stored[stamp % self.capacity] == stamp
        if stamp <= self.last or not known:
            return Due("hold")
        return Due("update", stamp)

    def commit(self, t: int, due: Due, present: bool) -> None:
        """Record what was done at committed step t; `present` says whether a fresh gradient was stored."""
        slot = t % self.capacity
        if self.stored[slot] > self.last:  # overwritten before it came due
            self.dropped += 1
        self.stored[slot] = t if present else EMPTY
        if due.action == "update":
            older = [s for s in self.stored if self.last < s < due.stamp]
            self.dropped += len(older)
            self.last = due.stamp
            self.applied += 1
        elif due.action == "hold":
            self.held += 1
        else:
            self.missing += 1


class Ring:
    """Stores a fixed number of flat gradients of one group, with views in the shapes of its parameters.

    The memory is allocated once, here.

    Args:
        group: the group whose gradients are stored.
        capacity: the number of slots, the largest delay + 1.
        dtype: the type of the stored numbers; None keeps that of the parameters, which is exact.
        device: where the slots lie: the `same` device as the parameters, or the `cpu` (pinned where those are on CUDA).

    Attributes:
        flat: (capacity, parameters) the stored gradients.
        views: per slot, one view of `flat` per parameter, in its shape.
        has: per slot, whether each parameter had a gradient.
        norms: per slot, the norm of its gradient (0-d), None before anything is stored.
        pinned: whether the slots lie in pinned memory.
    """

    def __init__(self, group: Group, capacity: int, dtype: torch.dtype | None, device: Literal["same", "cpu"]):
        first = group.params[0]
        where = first.device if device == "same" else torch.device("cpu")
        self.pinned = where.type == "cpu" and first.device.type == "cuda"
        self.flat = torch.zeros(capacity, group.numel, dtype=dtype or first.dtype, device=where, pin_memory=self.pinned)
        sizes = [p.numel() for p in group.params]
        self.views = [
            [piece.view(p.shape) for piece, p in zip(row.split(sizes), group.params, strict=True)]
            for row in self.flat.unbind()
        ]
        self.has = [[False] * len(sizes) for _ in range(capacity)]  # a parameter without a gradient then has none later
        self.norms: list[Tensor | None] = [None] * capacity

    def push(self, slot: int, params: list[nn.Parameter], norm: Tensor) -> None:
        """Copy the gradients of the parameters, whose joint norm is known, into a slot."""
        self.norms[slot] = norm
        self.has[slot] = [p.grad is not None for p in params]
        sources = [p.grad for p in params if p.grad is not None]
        targets = [v for v, h in zip(self.views[slot], self.has[slot], strict=True) if h]
        torch._foreach_copy_(targets, sources, non_blocking=True)

    def lend(self, slot: int, params: list[nn.Parameter]) -> bool:
        """Make `p.grad` the stored tensors themselves, without a copy.

        Return False, and change nothing, where they differ from the parameters in dtype, device or layout.
        """
        like = params[0]
        if self.flat.dtype != like.dtype or self.flat.device != like.device:
            return False
        if any(p.dtype != like.dtype or not p.is_contiguous() for p in params):
            return False
        for p, view, h in zip(params, self.views[slot], self.has[slot], strict=True):
            p.grad = view if h else None
        return True

    def pop(self, slot: int, params: list[nn.Parameter]) -> None:
        """Copy the gradients of a slot into `p.grad`."""
        for p, h in zip(params, self.has[slot], strict=True):
            if not h:
                p.grad = None
            elif p.grad is None:
                p.grad = torch.empty_like(p)
        targets = [p.grad for p in params if p.grad is not None]
        sources = [v for v, h in zip(self.views[slot], self.has[slot], strict=True) if h]
        torch._foreach_copy_(targets, sources, non_blocking=True)

    def push_values(self, slot: int, values: list[Tensor]) -> None:
        """Copy tensors in the shapes of the parameters, not gradients, into a slot."""
        torch._foreach_copy_(self.views[slot], values, non_blocking=True)
