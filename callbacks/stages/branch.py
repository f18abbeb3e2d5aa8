"""Branch: where a branch joins the stream, so that it can be left out, measured, and told apart from its size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

#: what passes on from the place where a branch joins: see `Branch`
Mode = Literal["on", "off", "inflated", "turned"]


class Branch(nn.Module):
    """Marks the place where a branch joins a stream; without an observer it passes the sum on unchanged.

    A module that adds something to a stream keeps a `Branch` and asks it in its forward pass::

        full = stream + branch_output
        if self.branch.watched:
            full = self.branch(full, stream)

    `switched` sets the mode of all branches of a module for a moment:

    - `on`: the stream with the branch;
    - `off`: the stream alone;
    - `inflated`: the stream, every token at the norm that it has with the branch, under the gradient of the stream
      alone. What this changes is what the branch does by its size: a normalisation downstream divides the gradient by
      the norm that it finds;
    - `turned`: the stream with the branch, every token scaled back to the norm that it has without, under the gradient
      of their sum. What this changes is what the branch does by its direction.

    It has neither parameters nor state, and moves no weights of a model that contains it.

    Attributes:
        mode: what passes on.
        norms: with `measured`, the sums of the norms of branch and stream over the tokens that the branch reaches, (2,)
            on the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mode: Mode = "on"
        self.norms: Tensor | None = None
        self._measuring = False

    @property
    def watched(self) -> bool:
        """Return whether anybody wants to know: if not, the stream without the branch need not be computed."""
        return self.mode != "on" or self._measuring

    def forward(self, full: Tensor, stream: Tensor) -> Tensor:
        """Return what passes on, of the shape of `full`.

        Args:
            full: the stream with the branch, (…, d).
            stream: the stream without the branch, (…, d).
        """
        if self._measuring:
            with torch.no_grad():
                added = _size(full - stream)
                sizes = torch.stack([added.sum(), torch.where(added > 0, _size(stream), 0.0).sum()])
                self.norms = sizes if self.norms is None else self.norms + sizes
        if self.mode == "on":
            return full
        if self.mode == "off":
            return stream
        shown, size = (stream, full) if self.mode == "inflated" else (full, stream)
        with torch.no_grad():
            own, tiny = _size(shown), torch.finfo(full.dtype).tiny
            factor = torch.where(own > tiny, _size(size) / own.clamp_min(tiny), 1.0)
            change = (factor - 1.0) * shown
        return shown + change  # the factor is in the value and not in the gradient


def _size(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def branches_of(module: nn.Module) -> list[Branch]:
    """Return all branches of a module, in the order of its submodules."""
    return [m for m in module.modules() if isinstance(m, Branch)]


def owners_of(module: nn.Module) -> list[nn.Module]:
    """Return the submodules that have a branch as a direct child: whose weights make the branches."""
    return [m for m in module.modules() if any(isinstance(child, Branch) for child in m.children())]


@contextmanager
def switched(module: nn.Module, mode: Mode) -> Iterator[None]:
    """Set the mode of all branches of a module for the block."""
    branches = branches_of(module)
    before = [b.mode for b in branches]
    for b in branches:
        b.mode = mode
    try:
        yield
    finally:
        for b, old in zip(branches, before, strict=True):
            b.mode = old


@contextmanager
def measured(module: nn.Module) -> Iterator[list[Branch]]:
    """Have all branches of a module sum up the norms of branch and stream in the block, from zero on."""
    branches = branches_of(module)
    for b in branches:
        b._measuring, b.norms = True, None
    try:
        yield branches
    finally:
        for b in branches:
            b._measuring = False


def norm_sums(branches: list[Branch]) -> Tensor:
    """Return the sums of the norms of branch and stream over the tokens of all branches, (2,); 0 where none ran."""
    found = [b.norms for b in branches if b.norms is not None]
    return torch.stack(found).sum(0) if found else torch.zeros(2)
