"""Latents as embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from callbacks.ranges import Width
from latentwire.adapters.base import Adapter
from latentwire.adapters.calibration import AT_ONCE
from latentwire.injectors.base import Injector, Start
from latentwire.injectors.fitting import pooled_embeddings, pooled_embeddings_of_batch
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix


class SoftPrefix(Injector):
    """Makes M embeddings after the head (BOS), before the text; at positions 1 … M after a BOS.

    The target of the calibration is the RMS over all entries of the model's own embeddings of `texts`, the root of the
    mean square of the per-token RMS. Given texts, `calibrate` first fits the adapter to the mean embedding of each
    slot's tokens (`fitting`, `Adapter.fit`).

    Args:
        d_z: width of a latent.
        lm: the model that reads.
        texts: real text to measure the embeddings on; the measurement stays with the model (`lm.measure`). None: a
            saved state will bring the target.
        adapter: factory that is called with `d_z`, `d_out` and `target`.
        start: `text`, the least-squares map, or `random`.
    """

    embeds = True
    reads_text = True

    def __init__(
        self,
        d_z: Width,
        lm: FrozenLM,
        texts: Sequence[str] | None,
        adapter: Callable[..., Adapter],
        start: Start = "text",
    ):
        super().__init__(lm, start)
        target = 1.0 if texts is None else float(lm.measure(texts).pow(2).mean().sqrt())
        self.adapter = adapter(d_z=d_z, d_out=lm.d_model, target=target)

    def forward(self, z: Tensor) -> Prefix:
        """Turn (B, M, d_z) into embeddings (B, M, d_model)."""
        return Prefix(embeds=self.adapter(z))

    @torch.no_grad()
    def text_prefix(self, ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Prefix:
        return Prefix(embeds=pooled_embeddings_of_batch(self.lm, ids, mask, counts))

    def text_rms(self) -> dict[str, Tensor]:
        return {"embeddings": self.adapter.calibration.target.reshape(1)}

    @torch.no_grad()
    def calibrate(self, z: Tensor, texts: Sequence[str] | None = None, counts: Sequence[int] | None = None) -> None:
        if texts is not None and self.start == "text":
            n = counts or [z.shape[1]]
            self.adapter.fit(
                (part, pooled_embeddings(self.lm, texts[i * AT_ONCE : (i + 1) * AT_ONCE], n).to(z))
                for i, part in enumerate(z.split(AT_ONCE))
            )
        self.adapter.calibrate(z)
