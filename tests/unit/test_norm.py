"""Normalisation statistics come back bit for bit as they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from callbacks.step import norm
from callbacks.step.norm import NormSnapshot, recompute_statistics, running_layers

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


# -- recomputed over data
def passed_over(net: nn.Module, batches: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    recompute_statistics(list(running_layers(net).values()), lambda: [net(x) for x in batches])
    return buffers(net)


def test_recomputed_statistics_are_those_of_torchs_update_bn():
    net, batches = network("batch"), [3 * torch.randn(8, 2, 6, 6) + 1 for _ in range(3)]
    reference = network("batch")
    update_bn(batches, reference)
    found = passed_over(net.eval(), batches)
    for name, value in buffers(reference).items():
        torch.testing.assert_close(found[name], value, msg=name)
    layers = list(running_layers(net).values())
    assert [(layer.momentum, layer.training) for layer in layers] == [(0.1, False)] * 2


def test_a_layer_that_no_batch_reaches_keeps_its_statistics():
    net = network("batch")
    before = buffers(net)
    recompute_statistics([net[1]], lambda: net[4](torch.randn(2, 4, 1, 1)))
    assert torch.equal(net[1].running_mean, before["1.running_mean"])
    assert torch.equal(net[1].running_var, before["1.running_var"])


def test_each_ranks_batches_count_alike(monkeypatch):
    """Two ranks with two batches and one have together the statistics of one rank with three."""
    batches = [torch.randn(8, 2, 6, 6) * scale for scale in (1.0, 2.0, 5.0)]
    summed: list[torch.Tensor] = []
    monkeypatch.setattr(norm, "sum_over_ranks", lambda values: (summed.append(values.clone()), values)[1])
    one = nn.BatchNorm2d(2)
    passed_over(one, batches[2:])
    monkeypatch.setattr(norm, "sum_over_ranks", lambda values: values + summed.pop(0))
    other, whole = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    passed_over(other, batches[:2])
    monkeypatch.undo()
    passed_over(whole, batches)
    torch.testing.assert_close(other.running_mean, whole.running_mean)
    torch.testing.assert_close(other.running_var, whole.running_var)
