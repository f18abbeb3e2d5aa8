"""Latents as a prefix, and again as what layers read beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import Layers, OpenShare, Width
from latentwire.adapters.base import Adapter
from latentwire.adapters.calibration import AT_ONCE
from latentwire.adapters.linear import LinearAdapter
from latentwire.injectors.base import Injector
from latentwire.injectors.latent_adapters import LatentAdapters
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix


class Combined(LatentAdapters):
    """Puts a prefix before the question and lets some layers read the same latents again, by gated cross-attention.

        h      = adapter(z)
        prefix = inner(h)           embeddings, or keys and values of every layer
        reads  = LatentAdapters(h)  at some layers, for every column behind the head

    A prefix is made before the question is known; cross-attention answers what the stream asks, layer by layer. Both
    start from one h, which the inner injector brings to its own width by a linear map: its adapter, fitted and
    calibrated as its own rules say, and a part of the injector's parameters. With gates at 0 this is the inner injector
    on h, without the prefix it is `LatentAdapters`. Where the prefix are embeddings, their columns read the latents as
    well; a `Coprocessor` makes its cache before anything is read.

    Columns are those of the prefix alone. `positions` counts M, or the prefix's length where that is more, and not 2 M:
    a few layers attend to the same M latents a second time, in no column and no cache. In a warm-up of text among
    latents it is places of the prefix that become text. States of the text (`StateRegression`) have no part in what
    layers read, so this injector makes none.

        injector=combined injector@injector.prefix=soft_prefix injector.layers=[2,3] injector.prefix.start=random

    Further arguments are those of `LatentAdapters`.

    Args:
        d_z: width of a latent.
        lm: the model that reads.
        texts: real text to measure the model on; None: a saved state will bring what was measured.
        adapter: factory that is called with `d_z`, `d_out=width` and `target=1.0`.
        prefix: factory of the inner injector, called with `d_z=width`, `lm`, `texts` and `adapter`.

    Raises:
        UserError: an inner injector that makes no prefix, or what either of the two refuses.
    """

    def __init__(
        self,
        d_z: Width,
        lm: FrozenLM,
        texts: Sequence[str] | None,
        adapter: Callable[..., Adapter],
        prefix: Callable[..., Injector],
        width: Width = 256,
        heads: Width = 4,
        layers: Sequence[Layers] | None = None,
        gate: OpenShare = 0.1,
        slots: Width = 1024,
    ):
        super().__init__(d_z, lm, texts, adapter, width, heads, layers, gate, slots)
        self.prefix = prefix(d_z=width, lm=lm, texts=texts, adapter=LinearAdapter)
        check_prefix(type(self.prefix))
        self.reads_text = self.prefix.reads_text

    def forward(self, z: Tensor) -> Prefix:
        """Turn (B, M, d_z) into the inner injector's prefix, and keys and values for the chosen layers."""
        h = self.adapter(z)
        found: Prefix = self.prefix(h)
        return replace(found, reads=self.reads(h))

    def positions(self, slots: int) -> int:
        return max(slots, self.prefix.positions(slots))

    def columns(self, slots: int) -> int:
        return self.prefix.columns(slots)

    @property
    def first_state(self) -> int:
        return min(self.at[0], self.prefix.first_state)

    @property
    def last_state(self) -> int:
        return max(self.at[-1], self.prefix.last_state)

    @torch.no_grad()
    def text_prefix(self, ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Prefix:
        return self.prefix.text_prefix(ids, mask, counts)

    def text_rms(self) -> dict[str, Tensor]:
        return {**self.prefix.text_rms(), **super().text_rms()}

    @torch.no_grad()
    def refit(self, z: Tensor, texts: Sequence[str], counts: Sequence[int] | None = None) -> None:
        """Measure r_l and start the prefix anew, its linear map included, for latents (B, M, d_z)."""
        super().refit(z, texts, counts)
        training = self.training
        self.eval()
        h = torch.cat([self.adapter(part) for part in z.split(AT_ONCE)])
        self.prefix.calibrate(h, texts or None, counts)
        self.train(training)


def check_prefix(kind: object) -> None:
    """Raise UserError for a class that is no injector, or one whose latents stand in no place before the question."""
    if not (isinstance(kind, type) and issubclass(kind, Injector)) or issubclass(kind, LatentAdapters):
        raise UserError(
            "injector.prefix",
            f"{getattr(kind, '__name__', kind)}, which makes no prefix",
            "an injector of embeddings, or of keys and values: deep_prefix, sized_prefix, soft_prefix, coprocessor",
            "set injector@injector.prefix=deep_prefix",
        )
