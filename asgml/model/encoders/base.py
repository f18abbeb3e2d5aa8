"""What every encoder shares: the check of its input shape, batches without rows, pooling over frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from asgml.data.spec import RANK
from callbacks.errors import UserError
from callbacks.ranges import Count

KIND_OF_RANK: dict[int, str] = {1: "vector", 2: "sequence", 3: "image", 4: "frames"}


def resolve_kind(shape: tuple[int, ...], kind: str | None, accepts: tuple[str, ...], where: str) -> str:
    """Return the kind of modality that `shape` (without the row axis) stands for.

    Args:
        shape: the shape of one sample.
        kind: the kind, where it is known. None follows from the rank (rank 1 is a vector, never tokens), unless only
            one kind is accepted.
        accepts: the kinds that the encoder takes.
        where: the encoder, for errors.

    Raises:
        UserError: an unknown kind, a rank that contradicts it, an axis without extent, or a kind not in `accepts`.
    """
    if kind is None:
        kind = accepts[0] if len(accepts) == 1 else KIND_OF_RANK.get(len(shape), "none")
    remedy = "set model.encoders.<modality> to another encoder (asgml.model.auto_encoder takes all kinds but tokens)"
    if RANK.get(kind) != len(shape) or any(size < 1 for size in shape):
        expected = ", ".join(f"{k}: {RANK[k]} axes" for k in accepts) + ", each at least 1 long"
        raise UserError(where, f"samples of shape {tuple(shape)} and kind {kind}", expected, remedy)
    if kind not in accepts:
        raise UserError(where, f"a modality of kind {kind}, shape {tuple(shape)}", " or ".join(accepts), remedy)
    return kind


def no_rows(module: nn.Module, dim: int) -> Tensor:
    """Return the features (0, dim) of a batch in which nobody has this modality.

    They hang on every trainable parameter, whose gradient is then 0 and not None: under DDP a rank without rows must
    still take part in the reduction. The encoder itself does not run, so that batch normalisation counts no empty batch
    (SyncBatchNorm is the exception to mind: its own all-reduce inside the forward would wait for this rank).
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        reference = next(module.parameters(), None)
        return torch.zeros(0, dim) if reference is None else reference.new_zeros(0, dim)
    nothing = torch.cat([p.flatten()[:0] for p in parameters]).sum()
    return nothing.new_zeros(0, dim) + nothing


def largest_id(ids: Tensor) -> int:
    """Return the largest of some token ids; -1 where a look at them would cost a wait or cannot be traced.

    On a GPU, and in a program that `torch.export` makes, torch's own lookup refuses ids beyond the vocabulary.
    """
    return int(ids.max()) if ids.device.type == "cpu" and not torch.compiler.is_compiling() else -1


def mean_over_frames(encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the mean over T of the features of each frame: (n, T, C, H, W) -> (n, d).

    Args:
        encode: the function from frames (n, C, H, W) to features (n, d).
        x: the frames.
    """
    return encode(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)


class Encoder(nn.Module):
    """Base of the encoders here; a third party's encoder needs `out_dim` and `forward` only.

    Args:
        shape: the shape of one sample, without the row axis.
        kind: the kind of the modality; null reads it off the rank.

    Attributes:
        accepts: the kinds that the encoder takes.
        takes_lengths: whether `forward` also takes the number of valid steps of each row, (n,) int64, each 1 or more,
            as its second argument. Padded sequences need it: an encoder without this attribute is refused for them.
        out_dim: the width of its features.

    Raises:
        UserError: a modality that the encoder does not take.
    """

    accepts: ClassVar[tuple[str, ...]]
    takes_lengths: ClassVar[bool] = False
    out_dim: int

    def __init__(self, shape: tuple[Count, ...], kind: str | None):
        super().__init__()
        self.shape = tuple(shape)
        self.kind = resolve_kind(self.shape, kind, self.accepts, type(self).__name__)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (n, out_dim) of rows (n, *shape); n may be 0."""
        if x.shape[0] == 0:
            return no_rows(self, self.out_dim)
        return self.encode_rows(x)

    def encode_rows(self, x: Tensor) -> Tensor:
        """Return the features (n, out_dim) of rows (n, *shape) with n >= 1."""
        raise NotImplementedError
