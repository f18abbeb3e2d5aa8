"""Running statistics of normalisation layers count as weights: a step that must not move them restores them.

Example, in any training step::

    snapshot = NormSnapshot(model)
    snapshot.take()                                      # before the forward pass
    ...
    if vetoed:
        snapshot.restore()

Covered are the layers of torch that are built on `_NormBase`: BatchNorm, SyncBatchNorm and InstanceNorm, lazy ones
after their first forward pass. Other buffers that a forward pass writes (say, spectral norm's power iteration) are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from callbacks.step.ranks import sum_over_ranks

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class NormSnapshot:
    """Keeps copies of all running statistics of a module, to undo the forward pass of a vetoed or held step.

    The copies are allocated at the first `take` and reused from then on (allocated anew when the module has moved to
    another device or dtype); neither method waits for the device. Layers are collected once, so a snapshot is built
    after its module is complete.

    Args:
        module: the module whose layers are looked for, at any depth.
    """

    def __init__(self, module: nn.Module):
        self._layers = [m for m in module.modules() if isinstance(m, _NormBase)]
        self._copies: list[Tensor] = []
        self._taken = False

    def _buffers(self) -> list[Tensor]:
        # Read anew each time: `Module.to` replaces buffers.
        buffers = (layer._buffers.get(name) for layer in self._layers for name in STATISTICS)
        return [b for b in buffers if b is not None and not nn.parameter.is_lazy(b)]

    @torch.no_grad()
    def take(self) -> None:
        """Copy the statistics as they are now."""
        buffers = self._buffers()
        if [_signature(b) for b in buffers] != [_signature(c) for c in self._copies]:
            self._copies = [torch.empty_like(b) for b in buffers]
        _copy(self._copies, buffers)
        self._taken = True

    @torch.no_grad()
    def restore(self) -> None:
        """Write the statistics of the last `take` back, in place.

        Raises:
            RuntimeError: `take` has not been called, or layers were added or removed since.
        """
        if not self._taken:
            raise RuntimeError("NormSnapshot.restore() before take(): there is nothing to restore")
        _copy(self._buffers(), self._copies)


def _signature(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy with one launch per dtype and device; a mixed list would fall back to one launch per tensor."""
    if len(targets) != len(sources):
        raise RuntimeError("the normalisation layers have changed since NormSnapshot.take()")
    grouped: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        pair = grouped.setdefault((target.dtype, target.device), ([], []))
        pair[0].append(target)
        pair[1].append(source)
    for to, of in grouped.values():
        torch._foreach_copy_(to, of)


def running_layers(module: nn.Module) -> dict[str, _NormBase]:
    """Return the normalisation layers that have running statistics, by name; lazy ones only after their first pass."""
    layers = {name: m for name, m in module.named_modules() if isinstance(m, _NormBase)}
    return {n: m for n, m in layers.items() if m.running_mean is not None and not nn.parameter.is_lazy(m.running_mean)}


@torch.no_grad()
def recompute_statistics(layers: Sequence[_NormBase], forward: Callable[[], object]) -> None:
    """Replace running statistics by the means, over the batches of a pass, of each batch's mean and variance.

    The statistics of all ranks' batches are those of every rank. A layer that the pass does not reach keeps its own.
    As `torch.optim.swa_utils.update_bn`, for given layers; everything else of the network stays in its mode.

    Args:
        layers: the layers.
        forward: runs the forward pass over the data of this rank.
    """
    before = [(layer.momentum, layer.training) for layer in layers]
    old = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]  # type: ignore[union-attr]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over the batches
        layer.train()
    try:
        forward()
    finally:
        for layer, (momentum, training) in zip(layers, before, strict=True):
            layer.momentum, layer.training = momentum, training
    for layer, (mean, var) in zip(layers, old, strict=True):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert layer.num_batches_tracked is not None
        count = layer.num_batches_tracked.to(layer.running_mean)
        total = sum_over_ranks(count)
        reached = total > 0
        for buffer, kept in ((layer.running_mean, mean), (layer.running_var, var)):
            whole = sum_over_ranks(buffer * count) / total.clamp(min=1)
            buffer.copy_(torch.where(reached, whole, kept))
