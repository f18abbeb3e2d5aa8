"""Normalisation statistics come back bit for bit as they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from callbacks.step.norm import NormSnapshot

LAYERS = {
    "batch": lambda: nn.BatchNorm2d(4),
    "batch_cumulative": lambda: nn.BatchNorm2d(4, momentum=None),
    "batch_plain": lambda: nn.BatchNorm2d(4, affine=False),
    "batch_untracked": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "sync": lambda: nn.SyncBatchNorm(4),
    "instance": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "instance_untracked": lambda: nn.InstanceNorm2d(4),
    "group": lambda: nn.GroupNorm(2, 4),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)


def network(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), LAYERS[kind](), nn.ReLU(), nn.Conv2d(4, 4, 1), LAYERS[kind]()).train()
    net(torch.randn(8, 2, 6, 6))  # statistics that are not the initial ones
    return net


def buffers(net: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in net.named_buffers()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@every_layer
def test_snapshot_undoes_a_forward(kind):
    net = network(kind)
    snapshot = NormSnapshot(net)
    snapshot.take()
    before = buffers(net)
    identities = [id(b) for b in net.buffers()]
    net(torch.full((8, 2, 6, 6), torch.nan))
    snapshot.restore()
    assert equal(buffers(net), before)
    assert [id(b) for b in net.buffers()] == identities  # in place


def test_snapshot_keeps_its_memory_and_follows_the_module():
    net = network("batch")
    snapshot = NormSnapshot(net)
    with pytest.raises(RuntimeError, match="before take"):
        snapshot.restore()
    snapshot.take()
    memory = [c.data_ptr() for c in snapshot._copies]
    net(torch.randn(8, 2, 6, 6))
    snapshot.take()
    assert [c.data_ptr() for c in snapshot._copies] == memory
    before = buffers(net)
    net(torch.randn(8, 2, 6, 6))
    snapshot.restore()
    assert equal(buffers(net), before)
    net.double()  # replaces the buffers
    snapshot.take()
    before = buffers(net)
    net(torch.randn(8, 2, 6, 6, dtype=torch.float64))
    snapshot.restore()
    assert equal(buffers(net), before)
    assert net[1].running_mean.dtype == torch.float64


def test_modules_without_normalisation_are_fine():
    net = nn.Linear(2, 2)
    snapshot = NormSnapshot(net)
    snapshot.take()
    snapshot.restore()
