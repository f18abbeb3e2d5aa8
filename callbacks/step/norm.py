"""Running statistics of normalisation layers count as weights: hold them still, or put them back.

Example, in anybody's training step:

    with frozen_statistics(model.encoders["audio"]):    # an encoder that is held back in this step
        features = model.encoders["audio"](x)

    snapshot = NormSnapshot(model)
    snapshot.take()                                      # before the forward
    ...
    if vetoed:
        snapshot.restore()

Covered are the layers of torch built on `_NormBase`: BatchNorm, SyncBatchNorm and InstanceNorm, with lazy ones
after their first forward. Other buffers that a forward writes (spectral norm's power iteration, say) are not.
Under activation checkpointing the recomputation runs during backward: keep the backward inside
`frozen_statistics` too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Training forwards inside normalise with the batch, bit for bit as outside, but write no running statistics.

    Layers in eval mode keep reading theirs. `momentum = 0` would not do: it still counts batches, and lets NaN in.
    """
    layers = [m for m in module.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    hidden: list[tuple[_InstanceNorm, Tensor | None, Tensor | None]] = []
    try:
        for layer in layers:
            # BatchNorm and SyncBatchNorm then withhold the buffers from the kernel (`_BatchNorm.forward`) …
            layer.track_running_stats = False
            if isinstance(layer, _InstanceNorm):  # … InstanceNorm passes, and so updates, whatever buffers it has.
                hidden.append((layer, layer.running_mean, layer.running_var))
                layer.running_mean = layer.running_var = None
        yield
    finally:
        for instance, mean, variance in hidden:
            instance.running_mean, instance.running_var = mean, variance
        for layer in layers:
            layer.track_running_stats = True


class NormSnapshot:
    """Copies of all running statistics in `module`, to undo the forward of a vetoed step.

    The copies are allocated at the first `take` and used again from then on (anew when the module has moved to
    another device or dtype); neither method waits for the device. Layers are collected once: build it after the
    module is complete.
    """

    def __init__(self, module: nn.Module):
        self._layers = [m for m in module.modules() if isinstance(m, _NormBase)]
        self._copies: list[Tensor] = []
        self._taken = False

    def _buffers(self) -> list[Tensor]:
        # Read anew each time: `Module.to` replaces buffers.
        buffers = (layer._buffers.get(name) for layer in self._layers for name in STATISTICS)
        return [b for b in buffers if b is not None and not nn.parameter.is_lazy(b)]

    @property
    def nbytes(self) -> int:
        """Bytes held by the copies."""
        return sum(c.numel() * c.element_size() for c in self._copies)

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
        """Write the statistics of the last `take` back, in place. RuntimeError before the first `take`."""
        if not self._taken:
            raise RuntimeError("NormSnapshot.restore() before take(): there is nothing to restore")
        _copy(self._buffers(), self._copies)


def _signature(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    """One multi-tensor copy per dtype and device: a mixed list falls back to one launch per tensor."""
    if len(targets) != len(sources):
        raise RuntimeError("the normalisation layers have changed since NormSnapshot.take()")
    grouped: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        pair = grouped.setdefault((target.dtype, target.device), ([], []))
        pair[0].append(target)
        pair[1].append(source)
    for to, of in grouped.values():
        torch._foreach_copy_(to, of)
