"""gradient_share: how much gradient a branch leaves to the module beside it (specification A6.3)."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from callbacks.stages.gradient_share import gradient_norm, gradient_share

SEEDS = range(10)


class Stream(nn.Module):
    """Applies tanh to an adapter's output plus a scaled branch: a large branch saturates the tanh."""

    def __init__(self, scale: float):
        super().__init__()
        self.adapter, self.scale, self.on = nn.Linear(4, 4), scale, True

    def loss(self, seed: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(seed)
        x, branch = torch.randn(8, 4, generator=g), torch.randn(8, 4, generator=g)
        stream = self.adapter(x)
        self.norms = float((self.scale * branch).norm()), float(stream.norm())
        return torch.tanh(stream + (self.scale * branch if self.on else 0)).sum()

    @contextmanager
    def off(self):
        self.on = False
        yield
        self.on = True


@pytest.fixture
def model():
    def build(scale: float) -> Stream:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Stream(scale)

    return build


def test_a_full_scale_branch_warns_and_a_scaled_one_does_not(model, recwarn):
    loud, quiet = model(10.0), model(0.1)
    with pytest.warns(UserWarning, match=r"the branch leaves Linear only \d+% of its gradient"):
        full = gradient_share(loud.adapter, loud.loss, loud.off, SEEDS)
    assert full.share < 0.8
    recwarn.clear()
    small = gradient_share(quiet.adapter, quiet.loss, quiet.off, SEEDS)
    assert small.share > 0.9
    assert not recwarn.list


def test_the_share_is_the_mean_of_the_ratios_over_seeds(model):
    net = model(0.5)
    found = gradient_share(net.adapter, net.loss, net.off, SEEDS, norms=lambda: net.norms)
    ratios, loudness = [], []
    for seed in SEEDS:
        norms = []
        for net.on in (True, False):
            net.zero_grad()
            net.loss(seed).backward()
            norms.append(sum(float(p.grad.square().sum()) for p in net.adapter.parameters()) ** 0.5)
            if net.on:
                loudness.append(net.norms[0] / net.norms[1])
        ratios.append(norms[0] / norms[1])
    assert found.shares == pytest.approx(ratios, rel=1e-5)
    assert found.share == pytest.approx(sum(ratios) / 10, rel=1e-5)
    assert found.norm_ratio == pytest.approx(sum(loudness) / 10, rel=1e-5)


def test_no_gradient_is_left_behind_and_none_reaching_the_module_is_an_error(model):
    net = model(0.1)
    gradient_share(net.adapter, net.loss, net.off, [0])
    assert all(p.grad is None for p in net.parameters())
    other = nn.Linear(2, 2)
    assert gradient_norm(other, net.loss(0)) == 0.0
    with pytest.raises(ValueError, match="no gradient even without the branch"):
        gradient_share(other, net.loss, net.off, [0])
