"""Warm-up between text and latents: in training, readers read some slots as the text itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import ShareBelowOne, Steps
from latentwire.lm.layout import Prefix
from latentwire.train.curriculum import Linear

STREAM = 0x746578  # sets these draws apart from others of the same seed
By = Literal["slot", "message", "batch"]


class TextWarmUp:
    """Lets readers read text in the places of latents, often at first and now and then to the end.

    With probability p(t) a place is read as what the reader itself makes of that slot's part of the text: its mean
    embedding, or its mean keys and values in every layer (`Injector.text_prefix`; one token per slot is the text as it
    stands). p(t) goes from `first` to `tail` in a straight line and keeps the tail: what stands between text is never
    forgotten. Latents are so asked to take the place of text among text before they have to stand alone. What
    objectives see of the latents themselves (`token_alignment`, `embedding_reconstruction`) is not mixed, so that all
    slots are held to the text meanwhile; how hard, their weights say (`curriculum=text_warm_up`).

    Validation and evaluation read latents alone. With p = 0 the step is that without a warm-up to the last bit. Draws
    are a function of seed, step and text (`by: batch`: seed and step): no rank, no part of a batch and no restart
    differs. Beginnings that are continued (`continuation`) are read as latents.

    Limits: what is read as text teaches the wire nothing by answers. By `batch` whole steps do, which want an objective
    on the latents themselves beside the answers.

    Args:
        first: probability until `start`.
        tail: the probability from `start + steps` on.
        steps: the length of the way, in committed steps.
        start: where it begins.
        by: what is drawn for, each `slot`, each `message`, or each step's `batch`.
    """

    def __init__(
        self,
        first: ShareBelowOne = 0.9,
        tail: ShareBelowOne = 0.05,
        steps: Steps = 1000,
        start: Steps = 0,
        by: By = "slot",
    ):
        if tail > first:
            raise UserError(
                "loader.text_warm_up",
                f"tail {tail} above first {first}",
                "text that grows rarer",
                "set loader.text_warm_up.first=0.9 and loader.text_warm_up.tail=0.05",
            )
        self._share, self.by = Linear(first, tail, steps, start), by

    def share(self, t: int) -> float:
        """Return p at step t."""
        return self._share.weight(t, {})

    def taken(self, texts: Sequence[Sequence[int]], places: int, seed: int, t: int) -> Tensor:
        """Return which places are read as text, (texts, places) bool.

        Args:
            texts: whole numbers from 0 that name each text within the step.
            places: number of places of a message.
            seed: seed of the run.
            t: number of committed steps.
        """
        rows = []
        for name in texts:
            draws = np.random.default_rng([seed, STREAM, t, *([] if self.by == "batch" else name)])
            rows.append(draws.random(places if self.by == "slot" else 1).repeat(1 if self.by == "slot" else places))
        return torch.from_numpy(np.stack(rows) < self.share(t))


def among(prefix: Prefix, text: Prefix, taken: Tensor) -> Prefix:
    """Return a prefix of which some places are those of another one; the gradient passes where they are not.

    What layers read of latents beside their places (`Prefix.reads`) stays.

    Args:
        prefix: embeddings, or keys and values, of B examples.
        text: the same of the first N of them.
        taken: (N, M) bool, which places are those of `text`.
    """

    places = replace(prefix, reads=None).latents
    if places != text.latents:
        raise RuntimeError(f"{text.latents} places of text in {places} of a prefix: its injector says another")

    def mixed(own: Tensor, other: Tensor, where: Tensor) -> Tensor:
        chosen = torch.where(where.to(own.device), other.to(own), own[: len(other)])
        return torch.cat([chosen, own[len(other) :]])

    if prefix.embeds is not None and text.embeds is not None:
        return replace(prefix, embeds=mixed(prefix.embeds, text.embeds, taken[:, :, None]))
    if prefix.kv is None or text.kv is None:
        raise RuntimeError("a prefix that text has no place in")
    where = taken[:, None, :, None]
    pairs = zip(prefix.kv, text.kv, strict=True)
    return replace(prefix, kv=[(mixed(k, i, where), mixed(v, j, where)) for (k, v), (i, j) in pairs])
