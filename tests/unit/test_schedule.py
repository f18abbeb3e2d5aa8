"""The schedule's formulas (specification A3)."""

from __future__ import annotations

import random

import pytest

from asgml.rhythm.schedule import (
    Adaptive,
    Boost,
    boost_scale,
    constrain,
    decide,
    ramped,
    relative,
    rounded,
    speed_delay,
    speed_score,
    utilisation_delay,
    utilisation_excess,
)


def test_halves_round_up_evenly():
    assert [rounded(x) for x in (0.49, 0.5, 1.49, 1.5, 2.5, 3.5)] == [0, 1, 1, 2, 3, 4]


def test_relative_to_the_mean_and_nobody_favoured_without_a_signal():
    assert relative({"a": 3.0, "b": 1.0}) == {"a": 1.5, "b": 0.5}
    assert relative({"a": 0.0, "b": 0.0}) == {"a": 1.0, "b": 1.0}


def test_speed_score_mixes_gradient_and_descent():
    score = speed_score({"a": 1.6, "b": 0.4}, {"a": 1.2, "b": 0.8}, beta=0.25)
    assert score == pytest.approx({"a": 0.25 * 1.6 + 0.75 * 1.2, "b": 0.25 * 0.4 + 0.75 * 0.8})


@pytest.mark.parametrize(
    ("score", "base", "tau"),
    [(1.0, 0, 0), (1.6, 0, 1), (0.2, 0, 0), (1.0, 2, 2), (1.4, 2, 3), (0.3, 2, 0), (9.0, 2, 4)],
)
def test_speed_delay(score, base, tau):
    """1 + tau = clip(round((1 + tau_base) S), 1 + tau_min, 1 + tau_max)."""
    assert speed_delay({"a": score}, base, 0, 4) == {"a": tau}
    assert speed_delay({"a": score}, base, 1, 4) == {"a": max(1, tau)}


@pytest.mark.parametrize(
    ("ahead", "tau"), [(0.0, 0), (0.1, 0), (0.13, 0), (0.14, 1), (0.25, 2), (0.36, 3), (0.4, 4), (0.9, 4)]
)
def test_utilisation_delay(ahead, tau):
    """round((tau_max - tau_min) min(1, relu(U - min U - 0.1) / 0.3)) + tau_min."""
    used = {"strong": 0.05 + ahead, "weak": 0.05}
    assert utilisation_delay(used, 0, 4, 0.1, 0.3) == {"strong": tau, "weak": 0}


def test_a_gap_of_a_thousandth_changes_nothing():
    """The score is absolute: a purely relative one would make the most of it."""
    assert utilisation_excess({"a": 0.501, "b": 0.5}, 0.1, 0.3) == {"a": 0.0, "b": 0.0}
    assert boost_scale(Boost(), {"a": 0.501, "b": 0.5}) == {"a": 1.0, "b": 1.0}
    assert boost_scale(Boost(relative=True), {"a": 0.501, "b": 0.5}) == {"a": 1.0, "b": 1.5}


def test_the_weakest_always_has_the_smallest_delay_and_delays_grow_with_the_gap():
    for seed in range(200):
        draw = random.Random(seed)
        used = {f"m{i}": draw.random() for i in range(draw.randint(1, 7))}
        low, high = draw.randint(0, 2), draw.randint(2, 6)
        delay = utilisation_delay(used, low, high, 0.1, 0.3)
        assert delay[min(used, key=used.__getitem__)] == low
        order = sorted(used, key=used.__getitem__)
        assert [delay[m] for m in order] == sorted(delay.values())
        assert all(low <= tau <= high for tau in delay.values())


def test_kappa_bounds_how_far_anybody_falls_behind():
    assert constrain({"a": 9, "b": 0, "c": 1}, 3.0) == {"a": 2, "b": 0, "c": 1}
    assert constrain({"a": 9, "b": 1, "c": 4}, 3.0) == {"a": 5, "b": 1, "c": 4}
    assert constrain({"a": 9, "b": 0}, 1.0) == {"a": 0, "b": 0}
    for seed in range(200):
        draw = random.Random(seed)
        delay = {f"m{i}": draw.randint(0, 9) for i in range(draw.randint(1, 5))}
        kappa = draw.uniform(1, 6)
        bounded = constrain(delay, kappa)
        assert min(bounded.values()) == min(delay.values())
        assert all(1 + tau <= kappa * (1 + min(bounded.values())) + 1e-9 for tau in bounded.values())
        assert all(bounded[m] <= delay[m] for m in delay)


def test_the_ramp_is_linear_from_tau_min():
    steps = [ramped({"a": 4, "b": 1}, t, 8, 1)["a"] for t in range(0, 11, 2)]
    assert steps == [1, 1, 2, 3, 4, 4]
    assert all(ramped({"a": 4, "b": 1}, t, 8, 1)["b"] == 1 for t in range(10))
    assert ramped({"a": 4}, 0, 0, 0) == {"a": 4}


def test_signals():
    score, used = {"a": 3.0, "b": 0.4}, {"a": 0.3, "b": 0.9}
    assert decide(Adaptive(signal="speed"), score, {}, 0) == {"a": 2, "b": 0}
    assert decide(Adaptive(signal="utilisation"), {}, used, 0) == {"a": 0, "b": 2}
    assert decide(Adaptive(signal="utilisation", kappa=9.0), {}, used, 0) == {"a": 0, "b": 4}


def test_hybrid_is_the_larger_of_the_two():
    for seed in range(100):
        draw = random.Random(seed)
        names = [f"m{i}" for i in range(draw.randint(1, 5))]
        score = {m: draw.uniform(0, 3) for m in names}
        used = {m: draw.random() for m in names}
        base = draw.randint(0, 2)
        one, two, both = (
            decide(Adaptive(signal=s, kappa=100.0, tau_base=base), score, used, 0)
            for s in ("speed", "utilisation", "hybrid")
        )
        assert both == {m: max(one[m], two[m]) for m in names}


@pytest.mark.parametrize(("behind", "scale"), [(0.0, 1.0), (0.1, 1.0), (0.25, 1.25), (0.4, 1.5), (0.9, 1.5)])
def test_boost_scale(behind, scale):
    """1 + alpha min(1, relu(max U - U - 0.1) / 0.3), for the weak encoder."""
    used = {"strong": 0.95, "weak": 0.95 - behind}
    assert boost_scale(Boost(), used) == pytest.approx({"strong": 1.0, "weak": scale})
    assert boost_scale(Boost(alpha=4.0), used)["weak"] <= 2.0


def test_the_relative_boost_goes_by_the_largest_gap():
    """1 + alpha (max U - U) / (max U - min U): the weakest has 1 + alpha at any gap, and nobody at none."""
    rule = Boost(relative=True)
    assert boost_scale(rule, {"a": 0.65, "b": 0.35}) == pytest.approx({"a": 1.0, "b": 1.5})
    assert boost_scale(rule, {"a": 0.9, "b": 0.6, "c": 0.3}) == pytest.approx({"a": 1.0, "b": 1.25, "c": 1.5})
    assert boost_scale(rule, {"a": 0.4, "b": 0.4}) == {"a": 1.0, "b": 1.0}
    assert boost_scale(Boost(relative=True, alpha=4.0), {"a": 0.9, "b": 0.1})["b"] == 2.0
