"""What every injector offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from latentwire.adapters.base import Adapter
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix

Start = Literal["text", "random"]


class Injector(nn.Module):
    """Turns latents into what one language model reads; base of all injectors.

    It holds its model without owning its weights: a `FrozenLM` is no module and in no state. It must be calibrated
    before use: `calibrate(latents of a training batch)`, or its state loaded.

    Attributes:
        adapter: the part that brings latents to the injector's width, a parameter group of its own.
        embeds: whether what the adapter returns is read as embeddings.
        reads_text: whether text can be read where its latents are (`text_prefix`).
        has_states: whether it makes states of the model's layers (`states`, `text_states`).

    Args:
        lm: the model that reads.
        start: `text`, the least-squares map to what the model makes of training texts, or `random`.
    """

    adapter: Adapter
    embeds: bool = False
    reads_text: bool = False
    has_states: bool = False

    def __init__(self, lm: FrozenLM, start: Start):
        super().__init__()
        self.lm, self.start = lm, start

    def forward(self, z: Tensor) -> Prefix:
        """Turn latents (B, M, d_z) into what this model reads them as."""
        raise NotImplementedError

    def positions(self, slots: int) -> int:
        """Return how many places the model attends to for so many slots: its rivals have as many tokens."""
        return slots

    def columns(self, slots: int) -> int:
        """Return how many of its own positions the model spends on so many slots, in its input or its cache."""
        return self.positions(slots)

    @property
    def first_state(self) -> int:
        """The number of the first state of the model that latents change, from 1: what layer 1 makes."""
        return 1

    @property
    def last_state(self) -> int:
        """The number of the first state that everything in the injector has had a part in."""
        return 1

    def states(self, z: Tensor) -> Tensor:
        """Turn latents (B, M, d_z) into the states that the model reads, (layers, B, M, width), standardised.

        Standardised by channel with what was measured on text, before positions. Raises RuntimeError for an injector
        whose result is read as embeddings.
        """
        raise RuntimeError(f"{type(self).__name__} makes no states of the model's layers")

    def text_states(self, ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Tensor:
        """Return what the model makes of texts, pooled like latents, in the units of `states`; no gradient.

        Args:
            ids: (B, T) the model's ids of the texts, padded on the right.
            mask: (B, T), true on ids.
            counts: number of slots of each slice, each covering the whole text.
        """
        raise RuntimeError(f"{type(self).__name__} makes no states of the model's layers")

    def text_prefix(self, ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Prefix:
        """Return what the model reads where its latents are the text itself, pooled like them; no gradient.

        Raises RuntimeError for an injector whose latents stand where no text could.

        Args:
            ids: (B, T) the model's ids of the texts, padded on the right.
            mask: (B, T), true on ids.
            counts: number of slots of each slice, each covering the whole text.
        """
        raise RuntimeError(f"{type(self).__name__} has no places where text could stand")

    def text_rms(self) -> dict[str, Tensor]:
        """Return how large text is where its latents are read, as measured: RMS per layer, (layers,) float32, by part.

        Parts are those of `Prefix.parts`; a part that was not measured is left out.
        """
        return {}

    @torch.no_grad()
    def refit(self, z: Tensor, texts: Sequence[str], counts: Sequence[int] | None = None) -> None:
        """Start what lies behind the adapter anew from `texts`, for latents that have moved since; arguments as below.

        An injector without such a part stays as it is.
        """

    @torch.no_grad()
    def calibrate(self, z: Tensor, texts: Sequence[str] | None = None, counts: Sequence[int] | None = None) -> None:
        """Measure scales on latents (B, M, d_z) of a training batch.

        Args:
            z: the latents.
            texts: the B texts of the latents; with them an injector may start from what its model makes of them
                (see `fitting`).
            counts: number of slots of each slice in z, in order, each covering the whole text; None: one slice.
        """
        raise NotImplementedError
