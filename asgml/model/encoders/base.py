"""What every encoder shares: the check of its input shape, batches without rows, pooling over frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from callbacks.errors import UserError

#: Rank of one sample, without the row axis, per kind of modality.
RANKS: dict[str, int] = {"vector": 1, "tokens": 1, "sequence": 2, "image": 3, "frames": 4}
KIND_OF_RANK: dict[int, str] = {1: "vector", 2: "sequence", 3: "image", 4: "frames"}


def resolve_kind(shape: tuple[int, ...], kind: str | None, accepts: tuple[str, ...], where: str) -> str:
    """The kind of modality that `shape` (without the row axis) stands for.

    A kind that is not given follows from the rank (rank 1 is a vector, never tokens), unless the encoder accepts
    one kind only. A UserError tells an unknown kind, a rank that contradicts it, an axis without extent, and a
    kind that is not in `accepts`.
    """
    if kind is None:
        kind = accepts[0] if len(accepts) == 1 else KIND_OF_RANK.get(len(shape), "none")
    remedy = "choose another encoder in model.encoders.<modality> (small.auto_encoder fits all kinds but tokens)"
    if RANKS.get(kind) != len(shape) or any(size < 1 for size in shape):
        expected = ", ".join(f"{k}: {RANKS[k]} axes" for k in accepts) + ", each at least 1 long"
        raise UserError(where, f"samples of shape {tuple(shape)} and kind {kind}", expected, remedy)
    if kind not in accepts:
        raise UserError(where, f"a modality of kind {kind}, shape {tuple(shape)}", " or ".join(accepts), remedy)
    return kind


def no_rows(module: nn.Module, dim: int) -> Tensor:
    """The features (0, dim) of a batch in which nobody has this modality.

    They hang on every trainable parameter, whose gradient is then 0 and not None: under DDP a rank without rows
    must still take part in the reduction. The encoder itself does not run, so that batch normalisation counts no
    empty batch (SyncBatchNorm is the exception to mind: its own all-reduce inside the forward would wait for this
    rank).
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        reference = next(module.parameters(), None)
        return torch.zeros(0, dim) if reference is None else reference.new_zeros(0, dim)
    nothing = torch.cat([p.flatten()[:0] for p in parameters]).sum()
    return nothing.new_zeros(0, dim) + nothing


def mean_over_frames(encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(n, T, C, H, W) -> (n, d): `encode` maps each frame (C, H, W) to (d,), the frames are averaged."""
    return encode(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)


class Encoder(nn.Module):
    """Base of the encoders here; a third party's encoder needs `out_dim` and `forward` only.

    Args:
        shape: of one sample, without the row axis.
        kind: kind of the modality; None reads it off the rank.
    """

    accepts: ClassVar[tuple[str, ...]]
    out_dim: int

    def __init__(self, shape: tuple[int, ...], kind: str | None):
        super().__init__()
        self.shape = tuple(shape)
        self.kind = resolve_kind(self.shape, kind, self.accepts, type(self).__name__)

    def forward(self, x: Tensor) -> Tensor:
        """(n, *shape) -> (n, out_dim); n may be 0."""
        if x.shape[0] == 0:
            return no_rows(self, self.out_dim)
        return self.encode_rows(x)

    def encode_rows(self, x: Tensor) -> Tensor:
        """`forward` for n >= 1."""
        raise NotImplementedError
