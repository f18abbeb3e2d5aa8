"""Which model reads which latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from callbacks.errors import UserError

SHARED = "shared"


@dataclass(frozen=True)
class LatentLayout:
    """Says which slots are whose: [shared | private[a] | private[b] | …].

    A model reads the shared slots followed by its own. Without private slots every model reads everything; with some, a
    model must be named, and one that came later is named with 0: it reads the shared slots only.

    Args:
        shared: number of slots that all models read.
        private: number of slots that only one model reads, by model.
        budgets: lengths of the prefixes that were read in training, shortest first (`latentwire.train.Nested`); empty:
            only whole messages were.
        spread: whether shared slots are sent in the order of `message_order` and not in that of the text, so that a
            prefix has slots of the whole text.
        apart: whether a message of fewer slots is its text encoded anew for so many, and not the beginning of a longer
            one.
    """

    shared: int
    private: Mapping[str, int] = field(default_factory=dict)
    budgets: tuple[int, ...] = ()
    spread: bool = False
    apart: bool = False

    def __post_init__(self) -> None:
        counts = {SHARED: self.shared, **self.private}
        if SHARED in self.private or min(counts.values()) < 0 or sum(counts.values()) < 1:
            raise UserError(
                "wire.slots, wire.private",
                f"shared={self.shared}, private={dict(self.private)}",
                "no negative count, at least one slot, no model called shared",
                "set wire.private={}",
            )

    @property
    def slots(self) -> int:
        """The number of slots of a message, all models' together."""
        return self.shared + sum(self.private.values())

    @property
    def parts(self) -> list[tuple[str, int]]:
        """The pairs (slice, slots) in message order, empty slices left out."""
        return [(name, n) for name, n in ((SHARED, self.shared), *self.private.items()) if n > 0]

    def with_slots(self, slots: int) -> LatentLayout:
        """Return the same with another number of slots in all; private slots stay, shared ones are what is left.

        Raises:
            UserError: fewer slots than the private ones, or none for a model that reads shared slots only.
        """
        private = sum(self.private.values())
        if slots < private + (0 in self.private.values()) or slots < 1:
            least = max(1, private + (0 in self.private.values()))
            raise UserError(
                "wire.private",
                f"{private} private slots of {slots} in all: {dict(self.private)}",
                f"at least {least} slots in every stage (wire.slots, or tokens of a text over the ratio)",
                "set wire.private={}, or a smaller ratio",
            )
        return replace(self, shared=slots - private)

    def prefix(self, slots: int, where: str) -> LatentLayout:
        """Return the layout of the first `slots` slots of a message, or of a message of so many where all are `apart`.

        Args:
            slots: their number; all of them are allowed under every layout, fewer under one with `budgets`.
            where: what asks for so many, in errors: a message, an option, a key.

        Raises:
            UserError: a wire that was not trained to be read so, or more slots than a message has.
        """
        if slots == self.slots:
            return self
        if not 1 <= slots < self.slots:
            expected = f"1 to {self.slots}, as messages of this wire have {self.slots}"
            raise UserError(where, f"{slots} slots", expected, "give another number")
        if not self.budgets:
            raise UserError(
                where,
                f"{slots} slots",
                f"all {self.slots}: this wire was not trained to be read in part",
                f"send whole messages, or train with curriculum=nested wire.nested.budgets=[{slots}]",
            )
        return replace(self, shared=slots - sum(self.private.values()))

    def cut(self, slots: int, where: str) -> LatentLayout:
        """Return the layout of a message that is cut behind its first `slots` slots; arguments are those of `prefix`.

        Raises:
            UserError: as `prefix`, and where the slots of a shorter message are others.
        """
        found = self.prefix(slots, where)
        if self.apart and found is not self:
            expected = f"all {self.slots}: a shorter message of this wire is no part of a longer one"
            remedy = f"encode the text again with --slots {slots}"
            raise UserError(where, f"the first {slots} slots of a message", expected, remedy)
        return found

    def indices(self, model: str) -> list[int]:
        """Return the slots that `model` reads. Raises UserError for a model that the layout does not name."""
        if not self.private:
            return list(range(self.shared))
        if model not in self.private:
            raise UserError(
                f"wire.private, model {model}",
                "private slots for others only",
                " | ".join(self.private),
                f"set +wire.private.{model}=0 to let it read the shared slots",
            )
        names = list(self.private)
        start = self.shared + sum(self.private[name] for name in names[: names.index(model)])
        found = [*range(self.shared), *range(start, start + self.private[model])]
        if not found:
            raise UserError(
                f"wire.private, model {model}", "no slot to read", "at least one", f"set wire.private.{model}=1"
            )
        return found

    def counts(self, model: str) -> list[int]:
        """Return how many of the slots that `model` reads are shared, and how many its own."""
        return [self.shared, self.private.get(model, 0)]

    def read(self, z: Tensor, model: str) -> Tensor:
        """Pick the M slots that `model` reads; (B, slots, d_z) -> (B, M, d_z)."""
        if z.dim() != 3 or z.shape[1] != self.slots:
            raise ValueError(f"latents {tuple(z.shape)} for a layout of {self.slots} slots")
        found = self.indices(model)
        return z if len(found) == self.slots else z[:, found]

    def sent(self, z: Tensor) -> Tensor:
        """Put latents (B, slots, d_z) in the order of the text into that of a message."""
        if not self.spread:
            return z
        order = torch.tensor(message_order(self.shared), device=z.device)
        return torch.cat([z[:, : self.shared].index_select(1, order), z[:, self.shared :]], 1)

    def in_text_order(self, z: Tensor, model: str) -> Tensor:
        """Put the latents (B, M, d_z) that `model` reads of a whole message back into the order of the text."""
        if not self.spread:
            return z
        back = torch.tensor(message_order(self.shared), device=z.device).argsort()
        shared, _ = self.counts(model)
        return torch.cat([z[:, :shared].index_select(1, back), z[:, shared:]], 1)

    def identity(self) -> dict[str, Any]:
        """Return what the wire's fingerprint covers: equal where layouts differ in models without private slots.

        The fingerprint sorts names: an order of slices that is another one is told apart.
        """
        names = [name for name, _ in self.parts if name != SHARED]
        told = {".spread": 1} if self.spread else {}
        return dict(self.parts) | told | ({".order": names} if names != sorted(names) else {})


def message_order(slots: int) -> list[int]:
    """Return the places in the text of a message's slots, in the order in which they are sent.

    Places are ordered by their bits reversed (van der Corput, 1935): of 26 slots the first 7 are every fourth and the
    first 13 every second, so that each prefix is spread over the text and a slot that is left out has a neighbour that
    is sent.
    """
    bits = max(slots - 1, 1).bit_length()
    return sorted(range(slots), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
