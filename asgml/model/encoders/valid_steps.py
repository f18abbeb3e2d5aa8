"""Sequences of different lengths in one batch: padding that nothing computes with. Nothing is read from the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def valid_mask(lengths: Tensor, steps: int) -> Tensor:
    """Return the mask (n, 1, steps) bool of the first `lengths` (n,) steps of each row."""
    return (torch.arange(steps, device=lengths.device) < lengths[:, None])[:, None]


def only_valid(x: Tensor, mask: Tensor) -> Tensor:
    """Return x (n, C, T) with 0 in the padding, whatever it held."""
    return torch.where(mask, x, 0.0)


def lengths_after(conv: nn.Conv1d, lengths: Tensor) -> Tensor:
    """Return the lengths (n,) of the outputs that a convolution has for rows of these lengths alone."""
    (kernel,), (stride,), (dilation,) = conv.kernel_size, conv.stride, conv.dilation
    padding = conv.padding[0]
    assert isinstance(padding, int)
    return (lengths + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def masked_norm(norm: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """Normalise x (n, C, T) with the statistics of its valid steps alone; padding is returned as 0.

    The result at a valid step is what `norm` gives where there is no padding: GroupNorm takes the statistics of each
    row, BatchNorm1d those of all rows, and its running statistics follow likewise (variance with count - 1).

    Args:
        norm: a GroupNorm or BatchNorm1d with weight, bias and (BatchNorm1d) running statistics.
        x: the values.
        mask: the valid steps, (n, 1, T) bool.

    Raises:
        TypeError: another normalisation.
    """
    if isinstance(norm, nn.GroupNorm):
        return only_valid(_group_norm(norm, x, mask), mask)
    if isinstance(norm, nn.BatchNorm1d):
        return only_valid(_batch_norm(norm, x, mask), mask)
    raise TypeError(f"no statistics over valid steps for {type(norm).__name__}")


def _wide(x: Tensor) -> Tensor:
    """Return half-precision values in fp32, in which torch's own normalisations compute; others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _group_norm(norm: nn.GroupNorm, x: Tensor, mask: Tensor) -> Tensor:
    grouped = _wide(x).unflatten(1, (norm.num_groups, -1))
    where = mask[:, None]  # (n, 1, 1, T)
    count = where.sum((2, 3), keepdim=True) * grouped.shape[2]
    mean = torch.where(where, grouped, 0.0).sum((2, 3), keepdim=True) / count
    variance = torch.where(where, (grouped - mean).square(), 0.0).sum((2, 3), keepdim=True) / count
    normal = ((grouped - mean) * torch.rsqrt(variance + norm.eps)).flatten(1, 2)
    return (normal * norm.weight[:, None] + norm.bias[:, None]).to(x.dtype)


def _batch_norm(norm: nn.BatchNorm1d, x: Tensor, mask: Tensor) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if not norm.training:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    norm._check_input_dim(x)
    wide = _wide(x)
    count = mask.sum()
    mean = torch.where(mask, wide, 0.0).sum((0, 2)) / count
    variance = torch.where(mask, (wide - mean[:, None]).square(), 0.0).sum((0, 2)) / count
    with torch.no_grad():
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        assert norm.momentum is not None
        unbiased = variance * count / (count - 1).clamp(min=1)
        norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum)
        norm.running_var.lerp_(unbiased.to(norm.running_var), norm.momentum)
    normal = (wide - mean[:, None]) * torch.rsqrt(variance + norm.eps)[:, None]
    return (normal * norm.weight[:, None] + norm.bias[:, None]).to(x.dtype)
