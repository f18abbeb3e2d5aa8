"""The two normalisations of the encoders: batch (as published) and group (the same on one rank and on many)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from callbacks.errors import UserError

Norm = Literal["batch", "group"]


def _refuse_single_value(module: nn.modules.batchnorm._NormBase, x: Tensor) -> None:
    if module.training and x.numel() == module.num_features:
        raise UserError(
            "batch normalisation in training",
            f"one value per channel (input of shape {tuple(x.shape)})",
            "at least two values per channel: more present rows in the batch, or larger maps",
            "set norm=group in this encoder (model=resnet18_gn, model.encoder.norm=group), or raise loader.batch_size",
        )


class BatchNorm1d(nn.BatchNorm1d):
    """torch's BatchNorm1d, with an error that names the remedy where a batch has one value per channel."""

    def _check_input_dim(self, input: Tensor) -> None:
        super()._check_input_dim(input)
        _refuse_single_value(self, input)


class BatchNorm2d(nn.BatchNorm2d):
    """torch's BatchNorm2d, with an error that names the remedy where a batch has one value per channel."""

    def _check_input_dim(self, input: Tensor) -> None:
        super()._check_input_dim(input)
        _refuse_single_value(self, input)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return GroupNorm (Wu & He, ECCV 2018) with the largest number of groups up to 32 that divides `channels`.

    `channels` is 2 or more, and so is the size of a group: alone on a 1×1 map, one channel would have no variance.
    """
    return nn.GroupNorm(max(g for g in range(1, min(32, channels // 2) + 1) if channels % g == 0), channels)


def norm2d(norm: Norm, channels: int) -> nn.Module:
    """Return the normalisation of maps (n, channels, H, W)."""
    return BatchNorm2d(channels) if norm == "batch" else group_norm(channels)


def norm1d(norm: Norm, channels: int) -> nn.Module:
    """Return the normalisation of sequences (n, channels, T)."""
    return BatchNorm1d(channels) if norm == "batch" else group_norm(channels)


def norm0d(norm: Norm, width: int) -> nn.Module:
    """Return the normalisation of vectors (n, width); `group` has one group here, which is LayerNorm."""
    return BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width)
