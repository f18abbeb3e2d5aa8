"""G, D and S: how fast each modality learns (specification A3.1 to A3.3)."""

from __future__ import annotations

import random

import numpy as np
import pytest

from asgml.rhythm.dynamics import DynamicsTracker


def literal(norms: list[dict[str, float]], losses: list[dict[str, float]], sizes, window, alpha):
    """Return G_m and D_m, computed from the whole history as specification A3.1 and A3.2 define them."""
    g, d = {}, {}
    for m, size in sizes.items():
        values = [row[m] / size**0.5 for row in norms if row[m] > 0]
        weights = [alpha * (1 - alpha) ** i for i in range(len(values))][::-1]
        g[m] = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        history = [row[m] for row in losses if m in row]
        d[m] = abs(np.polyfit(range(window), history[-window:], 1)[0])
    means = [sum(x.values()) / len(x) for x in (g, d)]
    return {m: v / means[0] for m, v in g.items()}, {m: v / means[1] for m, v in d.items()}


@pytest.mark.parametrize("seed", range(5))
def test_signals_are_those_of_the_whole_history(seed):
    draw = random.Random(seed)
    sizes = {"audio": 100, "visual": 2500, "text": 9}
    tracker = DynamicsTracker(sizes, window=4, ema=0.2)
    norms, losses = [], []
    for _ in range(25):
        norms.append({m: draw.choice([0.0, draw.uniform(0.1, 3)]) for m in sizes})  # held back: no gradient
        losses.append({m: draw.uniform(0, 2) for m in sizes if draw.random() < 0.9})  # missing: no loss
        tracker.observe(norms[-1], losses[-1])
    g, d = literal(norms, losses, sizes, 4, 0.2)
    assert tracker.gradient() == pytest.approx(g)
    assert tracker.descent() == pytest.approx(d)
    assert tracker.score(0.3) == pytest.approx({m: 0.3 * g[m] + 0.7 * d[m] for m in sizes})


def test_the_first_gradient_counts_in_full():
    """Bias correction: the ratio after one step is that of the step, however small the EMA's weight."""
    tracker = DynamicsTracker({"a": 1, "b": 1}, ema=0.01)
    tracker.observe({"a": 3.0, "b": 1.0}, {})
    assert tracker.gradient() == pytest.approx({"a": 1.5, "b": 0.5})


def test_norms_are_per_square_root_of_the_number_of_parameters():
    tracker = DynamicsTracker({"big": 10000, "small": 100})
    tracker.observe({"big": 10.0, "small": 1.0}, {})
    assert tracker.gradient() == pytest.approx({"big": 1.0, "small": 1.0})


@pytest.mark.parametrize("sign", [1, -1])
def test_descent_is_absolute(sign):
    """Rising losses (overfitting) are a signal too: clamped at 0 it would be lost when it is needed most."""
    tracker = DynamicsTracker({"a": 1, "b": 1}, window=2)
    for step in range(3):
        tracker.observe({"a": 1, "b": 1}, {"a": 5 + sign * 0.3 * step, "b": 5 + 0.1 * step})
    assert tracker.descent() == pytest.approx({"a": 1.5, "b": 0.5})


def test_the_variance_of_the_batches_is_no_descent():
    """Losses of two modalities with the same noise, of which one falls by a tenth of it a step.

    By the difference of two batches ten steps apart the still one has more than half of the other's value.
    """
    draw, shares, of_two = np.random.default_rng(0), [], []
    for _ in range(200):
        noise = draw.normal(0, 0.1, (2, 50))
        falling, still = 2.3 - 0.01 * np.arange(50) + noise[0], 2.3 + noise[1]
        tracker = DynamicsTracker({"falling": 1, "still": 1})
        for a, b in zip(falling, still, strict=True):
            tracker.observe({"falling": 1.0, "still": 1.0}, {"falling": float(a), "still": float(b)})
        found = tracker.descent()
        shares.append(found["still"] / found["falling"])
        of_two.append((abs(still[-11] - still[-1]), abs(falling[-11] - falling[-1])))
    assert np.mean(shares) < 0.1
    assert np.mean([a for a, _ in of_two]) > 0.5 * np.mean([b for _, b in of_two])


def test_nobody_is_ahead_before_there_is_enough_to_tell():
    tracker = DynamicsTracker({"a": 1, "b": 1}, window=4)
    for step in range(3):
        tracker.observe({"a": 1.0 + step, "b": 0.0}, {"a": 1.0 - step, "b": 1.0})
        assert tracker.score(0.5) == {"a": 1.0, "b": 1.0}
    tracker.observe({"a": 1.0, "b": 1.0}, {"a": -2.0, "b": 0.9})
    assert tracker.score(0.5)["a"] > 1.3


def test_state_round_trip():
    draw = random.Random(0)
    one, two = (DynamicsTracker({"a": 4, "b": 9}, window=3) for _ in range(2))
    for step in range(12):
        if step == 6:
            two.load_state(one.state())
        row = {m: draw.random() for m in "ab"}, {m: draw.random() for m in "ab"}
        one.observe(*row)
        if step >= 6:
            two.observe(*row)
    assert one.state() == two.state()
    assert one.score(0.5) == two.score(0.5)
