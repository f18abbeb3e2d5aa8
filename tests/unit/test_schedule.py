"""The schedule's formulas (specification A3)."""

from __future__ import annotations

import math
import random
import re

import pytest

from asgml.rhythm.config import Asgml
from asgml.rhythm.schedule import (
    Adaptive,
    Boost,
    accuracy_interval,
    boost_scale,
    change_event,
    constrain,
    decide,
    dominant_beyond_noise,
    gap_noise,
    ramped,
    read_change_event,
    relative,
    rounded,
    speed_delay,
    speed_score,
    theory_delay,
    utilisation_delay,
    utilisation_excess,
)
from callbacks.errors import UserError


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


@pytest.mark.parametrize(
    ("options", "largest"),
    [
        ({"tau_max": 4}, 2),
        ({"kappa": 3.0, "tau_min": 1, "tau_max": 6}, 5),
        ({"kappa": 1.0, "signal": "utilisation"}, 0),
        ({"kappa": 1.5, "signal": "speed", "tau_base": 1, "tau_max": 4}, 2),
        ({"kappa": 1.66, "tau_min": 2, "tau_max": 4}, 3),
    ],
)
def test_a_kappa_under_which_tau_max_cannot_be_reached_is_refused_with_what_can(options, largest):
    with pytest.raises(UserError, match=rf"no delay above {largest} can be reached") as refused:
        Adaptive(**options)
    for remedy in re.findall(r"asgml\.adaptive\.(\w+)=(\d+)", refused.value.remedy):
        Adaptive(**{**options, remedy[0]: int(remedy[1])})


@pytest.mark.parametrize("signal", ["speed", "utilisation", "hybrid", "blend"])
def test_delays_reach_the_largest_and_never_exceed_it(signal):
    """It is what the rings of the buffer hold."""
    for base, low, high, n in ((0, 0, 4, 2), (1, 0, 4, 3), (1, 1, 3, 2), (0, 2, 9, 2), (2, 0, 4, 1)):
        schedule = Adaptive(signal=signal, tau_base=base, tau_min=low, tau_max=high, kappa=10.0)
        draw, seen = random.Random(0), set()
        for i in range(300):
            parts = [1.0] + [0.0] * (n - 1) if i == 0 else [draw.random() ** 3 for _ in range(n)]
            score = {f"m{j}": n * part / sum(parts) for j, part in enumerate(parts)}
            seen |= set(decide(schedule, score, {m: draw.random() ** 2 for m in score}, 0).values())
        assert max(seen) <= schedule.largest(n)
        assert max(seen) == schedule.largest(n) or signal == "blend" or (n == 1 and signal != "speed")


def test_the_ramp_is_linear_from_tau_min():
    steps = [ramped({"a": 4, "b": 1}, t, 8, 1)["a"] for t in range(0, 11, 2)]
    assert steps == [1, 1, 2, 3, 4, 4]
    assert all(ramped({"a": 4, "b": 1}, t, 8, 1)["b"] == 1 for t in range(10))
    assert ramped({"a": 4}, 0, 0, 0) == {"a": 4}


def test_signals():
    score, used = {"a": 3.0, "b": 0.4}, {"a": 0.3, "b": 0.9}
    assert decide(Adaptive(signal="speed"), score, {}, 0) == {"a": 2, "b": 0}
    assert decide(Adaptive(signal="utilisation"), {}, used, 0) == {"a": 0, "b": 2}
    assert decide(Adaptive(signal="utilisation", kappa=5.0, tau_max=4), {}, used, 0) == {"a": 0, "b": 4}


def test_theory_sets_the_interval_whose_mean_factor_is_the_square_of_the_weakest_share():
    s = {"a": 2.0, "b": 1.0, "c": 1.5}
    assert theory_delay(s, 0.0, 0, 9) == {"a": 3, "b": 0, "c": 1}  # k 4, 1 and 2.25
    assert theory_delay(s, 0.0, 1, 2) == {"a": 2, "b": 1, "c": 1}
    assert theory_delay(s, 0.1, 0, 9) == {"a": 5, "b": 0, "c": 2}  # (1 + 5 * 0.1) / 6 = 1/4; 2.61
    assert theory_delay(s, 0.25, 0, 9)["a"] == 9  # no interval has a mean factor of 1/4
    schedule = Adaptive(kind="frequency", signal="theory", tau_max=5, kappa=6.0)
    score = dict.fromkeys(s, 1.0)
    assert decide(schedule, score, {}, 0) == {"a": 0, "b": 0, "c": 0}  # nothing is measured yet
    assert decide(schedule, score, {}, 0, strengths=s) == {"a": 3, "b": 0, "c": 1}
    assert decide(schedule, score, {}, 0, strengths={"a": 0.0, **s, "b": 9.0})["b"] == schedule.largest(3)
    with pytest.raises(UserError, match="kind=frequency"):
        Adaptive(signal="theory")
    with pytest.raises(UserError, match="fusion_preserving"):
        Asgml(mode="adaptive", masking="fusion_preserving", adaptive=schedule)


def test_hybrid_is_the_larger_of_the_two_and_never_delays_the_weakest():
    """A slow learner is never held back, however fast it descends at the moment."""
    for seed in range(100):
        draw = random.Random(seed)
        names = [f"m{i}" for i in range(draw.randint(1, 5))]
        score = {m: draw.uniform(0, 3) for m in names}
        used = {m: draw.random() for m in names}
        base, low = draw.randint(0, 2), draw.randint(0, 1)
        one, two, both = (
            decide(Adaptive(signal=s, kappa=100.0, tau_max=4, tau_base=base, tau_min=low), score, used, 0)
            for s in ("speed", "utilisation", "hybrid")
        )
        weakest = min(used, key=used.__getitem__)
        assert both == {m: low if m == weakest else max(one[m], two[m]) for m in names}


def test_hybrid_spares_the_weakest_where_it_is_the_fastest():
    """The case in which the larger of the two alone held the slow learner back."""
    assert decide(Adaptive(signal="speed"), {"strong": 0.4, "weak": 1.6}, {}, 0) == {"strong": 0, "weak": 1}
    used = {"strong": 0.52, "weak": 0.5}
    assert decide(Adaptive(signal="hybrid"), {"strong": 0.4, "weak": 1.6}, used, 0) == {"strong": 0, "weak": 0}
    used = {"a": 0.5, "b": 0.5}
    assert decide(Adaptive(signal="hybrid"), {"a": 0.4, "b": 1.6}, used, 0) == {"a": 0, "b": 0}


def test_blend_is_the_weighted_mean_of_the_two_and_never_delays_the_weakest():
    for seed in range(100):
        draw = random.Random(seed)
        names = [f"m{i}" for i in range(draw.randint(1, 5))]
        score = {m: draw.uniform(0, 3) for m in names}
        used = {m: draw.random() for m in names}
        base, weight = draw.randint(0, 2), draw.choice([0.0, 0.25, 0.5, 0.9, 1.0])
        one, two, both = (
            decide(Adaptive(signal=s, kappa=100.0, tau_max=4, tau_base=base, blend_weight=weight), score, used, 0)
            for s in ("speed", "utilisation", "blend")
        )
        weakest = min(used, key=used.__getitem__)
        mean = {m: math.floor(weight * one[m] + (1 - weight) * two[m] + 0.5) for m in names}
        assert both == {m: 0 if m == weakest else mean[m] for m in names}


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


# -- the noise of a gap
def test_the_interval_is_wilsons():
    """Published example (Newcombe 1998, table I): 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for right, rows, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611),
                                   (1, 29, 0.0061, 0.1718)):  # fmt: skip
        assert accuracy_interval(right / rows, rows) == pytest.approx((low, high), abs=5e-5)
    assert accuracy_interval(0.7, 0) == (0.0, 1.0)
    assert accuracy_interval(1.0, 50)[1] == 1.0


def test_the_noise_of_a_gap_is_newcombes():
    """Published example (Newcombe 1998, table II, method 10): 56 of 70 less 48 of 80, lower limit 0.0524 of 0.2."""
    low = accuracy_interval(56 / 70, 70)[0]
    high = accuracy_interval(48 / 80, 80)[1]
    assert 0.2 - math.hypot(0.8 - low, high - 0.6) == pytest.approx(0.0524, abs=5e-5)
    equal = gap_noise({"a": 0.8, "b": 0.6}, 70)
    expected = math.hypot(0.8 - accuracy_interval(0.8, 70)[0], accuracy_interval(0.6, 70)[1] - 0.6)
    assert equal == pytest.approx({"a": expected, "b": 0.0})


def test_chance_alone_seldom_makes_anybody_dominant():
    """Two probes of the same true accuracy on 64 rows: in at most 5 % of the draws on either side."""
    draw, found = random.Random(0), 0
    for _ in range(2000):
        a, b = (sum(draw.random() < 0.5 for _ in range(64)) / 64 for _ in "ab")
        found += dominant_beyond_noise({"a": a, "b": b}, 64) is not None
    assert found / 2000 < 0.06


def test_the_strongest_dominates_once_its_gap_exceeds_its_noise():
    used = {"a": 0.5, "b": 0.8, "c": 0.7}
    assert dominant_beyond_noise(used, 200) == "b"
    assert dominant_beyond_noise(used, 10) is None
    assert dominant_beyond_noise(used, 0) is None
    assert dominant_beyond_noise({"a": 0.5, "b": 0.5}, 10**9) is None


@pytest.mark.parametrize(("rows", "tau"), [(12, 0), (40, 0), (150, 1), (256, 2), (10**9, 3)])
def test_a_gap_is_acted_on_only_beyond_its_noise(rows, tau):
    """0.8 against 0.5 is tau 3 of 4 when it is certain; what the held-out rows leave uncertain is not acted on."""
    used = {"strong": 0.8, "weak": 0.5}
    noise = gap_noise(used, rows)
    assert decide(Adaptive(signal="utilisation", tau_max=4, kappa=5.0), {}, used, 0, noise) == {
        "strong": tau,
        "weak": 0,
    }
    excess = min(1.0, max(0.0, 0.3 - noise["strong"] - 0.1) / 0.3)
    assert utilisation_excess(used, 0.1, 0.3, noise)["strong"] == pytest.approx(excess)


def test_the_noise_is_relative_to_ceilings_as_the_gap_is():
    used, top = {"strong": 0.8, "weak": 0.5}, {"strong": 0.9, "weak": 0.6}
    below, above = 0.8 - accuracy_interval(0.8, 50)[0], accuracy_interval(0.5, 50)[1] - 0.5
    assert gap_noise(used, 50, top) == pytest.approx({"strong": math.hypot(below / 0.9, above / 0.6), "weak": 0.0})
    turned = gap_noise({"a": 0.8, "b": 0.5}, 50, {"b": 0.5})  # 0.8 against 1.0: b is the stronger
    assert turned["a"] == 0.0 < turned["b"]


def test_a_higher_accuracy_never_means_a_smaller_delay():
    """The lower limit of a gap grows with the gap."""
    for rows in (5, 30, 300):
        for low in (0.0, 0.3, 0.7):
            sure = [
                p / 100 - low - gap_noise({"a": p / 100, "b": low}, rows)["a"] for p in range(int(low * 100) + 1, 101)
            ]
            assert sure == sorted(sure)


def test_events_of_the_schedule_can_be_read_back():
    assert read_change_event(change_event("left tau arm", 0, 3, 120, "S 1.00 because")) == ("left tau arm", 3, 120)
