"""From features of a text to its latents: pooling, refiner, output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from latentwire.encoders.halting import HaltingTransformer
from latentwire.encoders.pooling import Pooling
from latentwire.encoders.slots import LatentLayout
from latentwire.encoders.transformer import Transformer


class Bottleneck(nn.Module):
    """Makes latents of features: linear -> pooling, slice by slice -> + slice embedding -> refiner -> linear per slice.

    The refiner sees all slots of a message and ends in a norm.

    Args:
        d_in: width of the features.
        d_z: width of a latent.
        slices: names that a layout may use, `shared` first; fixed for the encoder's life.
        pooling: factory that is called with `d` and `slices`.
        width: width of everything inside.
        refiner_layers: number of transformer layers over the slots of a message; 0: none.
        heads: attention heads of the refiner.
        dropout: dropout of the refiner.
        halting: whether every slot learns how many of the refiner's layers it goes through (`HaltingTransformer`).

    Raises:
        UserError: slices of one name, heads that cannot share the width, or a refiner without layers that halts.
    """

    def __init__(
        self,
        d_in: int,
        d_z: int,
        slices: Sequence[str],
        pooling: Callable[..., Pooling],
        width: int,
        refiner_layers: int,
        heads: int,
        dropout: float,
        halting: bool = False,
    ):
        super().__init__()
        self.slices = list(slices)
        if not self.slices or len(set(self.slices)) != len(self.slices):
            raise UserError("wire.private", str(self.slices), "different names, at least one", "set wire.private={}")
        self.project = nn.Linear(d_in, width)
        self.pooling = pooling(d=width, slices=len(self.slices))
        self.slice_embedding = nn.Parameter(0.02 * torch.randn(len(self.slices), width))
        if halting and refiner_layers == 0:
            remedy = "set encoder.refiner_layers=4, or encoder.halting=false"
            raise UserError("encoder.halting", "a refiner of 0 layers", "1 or more, the largest depth", remedy)
        self.refiner = (HaltingTransformer if halting else Transformer)(width, refiner_layers, heads, dropout)
        self.norm = nn.LayerNorm(width)
        self.outputs = nn.ModuleList(nn.Linear(width, d_z) for _ in self.slices)
        for layer in (self.project, *self.outputs):  # nothing in a fresh latent is the same for all texts
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, mask: Tensor, layout: LatentLayout) -> Tensor:
        """Turn features (B, T, d_in) with a mask (B, T) into latents (B, layout.slots, d_z), in message order.

        Raises:
            UserError: the layout has slices that this encoder does not know, or in another order.
        """
        counts = self.counts(layout)
        x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        h = self.pooling(self.project(x), mask, counts)
        device = h.device
        # an index would cost more in its backward pass than the refiner's attention
        named = torch.cat(
            [self.slice_embedding[i : i + 1].expand(n, -1) for i, n in enumerate(counts)]
        )  # (slots, width)
        positions = torch.cat([torch.arange(n, device=device) for n in counts])
        h = self.norm(self.refiner(h + named, positions=positions))
        used = [(output, n) for output, n in zip(self.outputs, counts, strict=True) if n > 0]
        pieces = h.split([n for _, n in used], 1)
        return layout.sent(torch.cat([output(piece) for (output, _), piece in zip(used, pieces, strict=True)], 1))

    def counts(self, layout: LatentLayout) -> list[int]:
        """Return the slots of each slice, in the encoder's order, which must be the layout's."""
        parts = dict(layout.parts)
        if [name for name in self.slices if name in parts] != list(parts):
            raise UserError(
                "wire.private",
                f"slices {list(parts)}",
                f"a selection of {self.slices} in this order",
                "set wire.private as in the run that trained the encoder",
            )
        return [parts.get(name, 0) for name in self.slices]
