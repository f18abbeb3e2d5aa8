"""A gate per slot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from latentwire.encoders.pooling import Pooling


class SlotGate(nn.Module):
    """Scales every slot by a learned factor of its own, 2 sigmoid(g), which starts at 1 and stays between 0 and 2.

    Slot j of slice s has its own g, also when fewer slots are used: fewer slots are a prefix of more. The factor does
    not depend on the text.

    Args:
        slices: number of slices of a message.
        max_slots: number of gates per slice.
    """

    def __init__(self, slices: int, max_slots: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(slices, max_slots))

    def factors(self, slots: Sequence[int]) -> Tensor:
        """Return the factors (sum(slots),) of the first slots of each slice, slice by slice.

        Raises:
            UserError: more slots than there are gates.
        """
        if max(slots) > self.logits.shape[1]:
            found, most = f"{max(slots)} slots", self.logits.shape[1]
            raise UserError("encoder", found, f"at most {most}", f"set encoder.pooling.max_slots={max(slots)}")
        return torch.cat([2 * self.logits[s, :n].sigmoid() for s, n in enumerate(slots)])

    def forward(self, z: Tensor, slots: Sequence[int]) -> Tensor:
        """Scale slots (B, sum(slots), d); the counts are those of the slices, in order."""
        return z * self.factors(slots)[:, None]


def gate_of(pooling: Pooling, slices: int, otherwise: str) -> SlotGate:
    """Build the gate of a pooling's slots.

    Args:
        pooling: one whose slots are learned queries, which says how many there can be.
        slices: number of slices of a message.
        otherwise: what else can be done, for the error.

    Raises:
        UserError: a pooling whose slots have no queries of their own.
    """
    if pooling.max_slots is None:
        found = f"{type(pooling).__name__}, whose slots have no queries of their own"
        remedy = f"set pooling@encoder.pooling=chunk_queries{otherwise}"
        raise UserError("encoder.pooling", found, "learned queries", remedy)
    return SlotGate(slices, pooling.max_slots)
