"""Losses and test scores of anomaly maps, against their formulas pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch

from asgml.feedback.losses import anchors_apart, dice, focal, image_loss, map_loss, probabilities, text_loss
from asgml.feedback.scores import anomaly_map, picture_score

B, H = 2, 6


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    levels = [torch.randn(B, 2, s, s, generator=g, dtype=torch.float64) for s in (3, 3)]
    return levels, torch.rand(B, H, H, generator=g) < 0.3


def test_focal_and_dice_are_their_formulas(batch):
    levels, mask = batch
    p = probabilities(levels[0], H)
    assert torch.allclose(p.sum(1), torch.ones(B, H, H, dtype=torch.float64))
    pixels, dices = [], []
    for b in range(B):
        inter = total = 0.0
        for r in range(H):
            for c in range(H):
                q = float(p[b, int(mask[b, r, c]), r, c])
                pixels.append(-((1 - q) ** 2) * math.log(q))
                inter += float(p[b, 1, r, c]) * mask[b, r, c].item()
                total += float(p[b, 1, r, c]) + mask[b, r, c].item()
        dices.append(1 - (2 * inter + 1) / (total + 1))
    assert float(focal(p, mask)) == pytest.approx(sum(pixels) / len(pixels))
    assert float(dice(p[:, 1], mask)) == pytest.approx(sum(dices) / B)


def test_losses_sum_over_levels_and_add_their_terms(batch):
    levels, mask = batch
    one = [focal(p, mask) + dice(p[:, 0], ~mask) + dice(p[:, 1], mask) for p in (probabilities(x, H) for x in levels)]
    assert torch.allclose(map_loss(levels, mask), one[0] + one[1])
    anchors = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.0, 1.0]]], dtype=torch.float64)
    assert float(anchors_apart(anchors)) == pytest.approx(0.8**2)
    assert torch.allclose(text_loss(levels, mask, anchors), one[0] + one[1] + 0.1 * 0.64)
    logits = torch.tensor([[1.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    crossed = (math.log(1 + math.exp(2)) + math.log(2)) / 2
    found = image_loss(levels, logits, mask, torch.tensor([0, 1]))
    assert float(found - map_loss(levels, mask)) == pytest.approx(crossed)


def test_a_certain_map_costs_little_and_has_finite_gradients(batch):
    _, mask = batch
    right = (200.0 * torch.stack([~mask, mask], 1).double()).requires_grad_()
    assert float(map_loss([right], mask)) < 1e-6
    wrong = (-right.detach()).requires_grad_()
    map_loss([wrong], mask).backward()
    assert wrong.grad.isfinite().all()


def test_a_map_is_the_mean_of_blurred_differences_of_cosines():
    level = torch.zeros(1, 2, 9, 9, dtype=torch.float64)
    level[0, 1, 4, 4] = 100.0  # a cosine of 1
    found = anomaly_map([level, torch.zeros_like(level)], 9)
    weights = torch.exp(-0.5 * (torch.arange(-3, 4).double()) ** 2)
    weights = weights / weights.sum()
    expected = torch.full((9, 9), 0.5, dtype=torch.float64)
    expected[1:8, 1:8] += 0.25 * weights[:, None] * weights[None, :]
    assert torch.allclose(found[0], expected, atol=1e-12)
    assert torch.equal(anomaly_map([0.1 * level, 0 * level], 9, scale=10.0), found)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = anomaly_map([level.float()], 9)
    assert torch.equal(under_autocast, anomaly_map([level.float()], 9))
    assert anomaly_map([level], 18).shape == (1, 18, 18)
    assert anomaly_map([level[..., :2, :2]], 4, kernel=9, sigma=1.5).isfinite().all()
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    assert float(picture_score(found, logits)) == pytest.approx((found.max().item() + 0.75) / 2)
    assert float(picture_score(found, logits, detection=0)) == found.max().item()
