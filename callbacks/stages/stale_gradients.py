"""What a delayed group keeps: the stamps of its gradients (specification A2.4) and the gradients themselves (A2.10)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.step.groups import Group

EMPTY = -1
StoredType = Literal["bfloat16", "float16", "float32"]


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


def own_memory(gradient: Tensor) -> bool:
    """Return whether a gradient fills its memory alone, so that keeping the tensor keeps the gradient and no more.

    Views into shared memory (communication buckets, slices of a flat vector) do not, nor do gradients with a graph.
    """
    return (
        not gradient.requires_grad and gradient.untyped_storage().nbytes() == gradient.numel() * gradient.element_size()
    )


class Ring:
    """Keeps the gradients of one group in a fixed number of slots: the tensors that autograd made, without a copy.

    Once `p.grad` is None, autograd allocates anew, so a tensor that is kept here is nobody else's. A gradient that does
    not own its memory is copied. Nobody may write to a kept gradient; who did is found out when it comes due.

    Args:
        group: the group whose gradients are kept.
        capacity: the number of slots, the largest delay + 1.

    Attributes:
        slots: per slot, one gradient per parameter, None for a parameter without one; None where the slot is empty.
        norms: per slot, the norm of its gradient (0-d), None where the slot is empty.
        most: the largest number of slots that were filled between two steps.
    """

    def __init__(self, group: Group, capacity: int):
        self.name, self.numel, self.params = group.name, group.numel, group.params
        self.slots: list[list[Tensor | None] | None] = [None] * capacity
        self.norms: list[Tensor | None] = [None] * capacity
        self.most = 0
        self._versions: list[list[int]] = [[]] * capacity

    @property
    def bytes(self) -> int:
        """Return the size of the gradients that were kept between two steps, at most."""
        return self.most * sum(p.numel() * p.element_size() for p in self.params)

    def push(self, slot: int, norm: Tensor) -> None:
        """Keep the gradients of the parameters, whose joint norm is known, in a slot."""
        gradients = [p.grad for p in self.params]
        self._fill(slot, [g if g is None or own_memory(g) else g.detach().clone() for g in gradients], norm)

    def _fill(self, slot: int, kept: list[Tensor | None], norm: Tensor | None) -> None:
        self.slots[slot], self.norms[slot] = kept, norm
        self._versions[slot] = [g._version for g in kept if g is not None]

    def pop(self, slot: int) -> bool:
        """Make `p.grad` the gradients of a slot; return True: they are the kept tensors, not to be written to.

        Raises:
            UserError: somebody has written to one of them since.
        """
        kept = self.slots[slot]
        assert kept is not None
        if self._versions[slot] != [g._version for g in kept if g is not None]:
            raise UserError(
                f"StalenessBuffer: group '{self.name}'",
                "a gradient that waits in the buffer was changed in place",
                "gradients that nobody writes to after the stage that delays them",
                "in your own stage or hook change what ctx.writable(group) returns, and keep no p.grad from one "
                "phase to a later one",
            )
        for p, g in zip(self.params, kept, strict=True):
            p.grad = g
        return True

    def drop(self, slot: int) -> None:
        """Forget what a slot holds."""
        self.slots[slot] = self.norms[slot] = None

    def settle(self) -> None:
        """Note how many slots are filled between two steps."""
        self.most = max(self.most, sum(kept is not None for kept in self.slots))

    def state(self) -> dict[str, Any]:
        """Return copies of all slots on the CPU, an empty slot as zeros."""
        first = self.params[0]
        flat = torch.zeros(len(self.slots), self.numel, dtype=first.dtype)
        sizes = [p.numel() for p in self.params]
        for row, kept in zip(flat, self.slots, strict=True):
            for piece, g in zip(row.split(sizes), kept or [None] * len(sizes), strict=True):
                if g is not None:
                    piece.view(g.shape).copy_(g)
        has = [[g is not None for g in kept or [None] * len(sizes)] for kept in self.slots]
        return {"flat": flat, "has": has, "norms": _on_cpu(self.norms), "most": self.most}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        sizes = [p.numel() for p in self.params]
        self.most = state["most"]
        for slot, (row, has, norm) in enumerate(zip(state["flat"], state["has"], state["norms"], strict=True)):
            if norm is None:
                continue
            pieces = zip(row.split(sizes), has, self.params, strict=True)
            kept = [torch.empty_like(p).copy_(piece.view(p.shape)) if h else None for piece, h, p in pieces]
            self._fill(slot, kept, norm.to(self.params[0].device))


class CopyRing:
    """Copies the gradients (or the values) of one group into a fixed number of flat slots, allocated once.

    For gradients that are stored in another type or place, and where their own memory is used again.

    Args:
        group: the group whose gradients are stored.
        capacity: the number of slots, the largest delay + 1.
        dtype: the type of the stored numbers; None keeps that of the parameters, which is exact.
        device: where the slots lie: the `same` device as the parameters, or the `cpu` (pinned where those are on CUDA).

    Attributes:
        flat: (capacity, parameters) the stored gradients.
        views: per slot, one view of `flat` per parameter, in its shape.
        has: per slot, whether each parameter had a gradient.
        norms: per slot, the norm of its gradient (0-d), None where the slot is empty.
        pinned: whether the slots lie in pinned memory.
    """

    def __init__(self, group: Group, capacity: int, dtype: torch.dtype | None, device: Literal["same", "cpu"]):
        self.params = group.params
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

    @property
    def bytes(self) -> int:
        """Return the size of all slots."""
        return self.flat.numel() * self.flat.element_size()

    def push(self, slot: int, norm: Tensor) -> None:
        """Copy the gradients of the parameters, whose joint norm is known, into a slot."""
        self.norms[slot] = norm
        self.has[slot] = [p.grad is not None for p in self.params]
        sources = [p.grad for p in self.params if p.grad is not None]
        targets = [v for v, h in zip(self.views[slot], self.has[slot], strict=True) if h]
        torch._foreach_copy_(targets, sources, non_blocking=True)

    def push_values(self, slot: int) -> None:
        """Copy the parameters themselves into a slot."""
        torch._foreach_copy_(self.views[slot], [p.detach() for p in self.params], non_blocking=True)

    def pop(self, slot: int) -> bool:
        """Copy the gradients of a slot into `p.grad`; return False: they may be written to."""
        for p, h in zip(self.params, self.has[slot], strict=True):
            if not h:
                p.grad = None
            elif p.grad is None:
                p.grad = torch.empty_like(p)
        targets = [p.grad for p in self.params if p.grad is not None]
        sources = [v for v, h in zip(self.views[slot], self.has[slot], strict=True) if h]
        torch._foreach_copy_(targets, sources, non_blocking=True)
        return False

    def drop(self, slot: int) -> None:
        """Mark a slot as empty."""
        self.norms[slot], self.has[slot] = None, [False] * len(self.params)

    def settle(self) -> None:
        """Do nothing: the memory is allocated once."""

    def state(self) -> dict[str, Any]:
        """Return copies of all slots on the CPU."""
        if self.pinned:
            torch.cuda.synchronize()  # copies into pinned memory may still be under way
        return {
            "flat": self.flat.detach().cpu().clone(),
            "has": [list(row) for row in self.has],
            "norms": _on_cpu(self.norms),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.flat.copy_(state["flat"])
        self.has = [list(row) for row in state["has"]]
        device = self.params[0].device
        self.norms = [None if n is None else n.to(device) for n in state["norms"]]


def _on_cpu(norms: list[Tensor | None]) -> list[Tensor | None]:
    return [None if n is None else n.detach().cpu().clone() for n in norms]
