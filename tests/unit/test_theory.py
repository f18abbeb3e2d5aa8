"""The law of linear paths: closed forms against the recursion, and what follows for the mechanisms."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from asgml.theory import stability_map, tables
from asgml.theory.adam import EARLY, adam_half_time
from asgml.theory.closed_forms import (
    delay_stretch,
    delayed,
    encoder_delayed,
    encoder_held,
    frequency_hard,
    frequency_soft,
    heavy_ball,
    heavy_ball_small,
    plain,
    with_unimodal,
)
from asgml.theory.depth import saddle_time
from asgml.theory.mechanism import Mechanism
from asgml.theory.paths import Paths, redundant, unimodal_phase
from asgml.theory.saddle import growth_rate
from asgml.theory.simulation import Adam, Case, Recursion, half_times
from asgml.theory.times import times
from asgml.theory.together import leave_together
from callbacks.stages.delay_stability import stability_limit
from callbacks.stages.frequency import mean_factor
from suite.report.chart import HEIGHT, TOP, Line, Panel, svg

ROOT = Path(__file__).parents[2]


def stretch(mechanism: Mechanism) -> float:
    """Return how many times longer a path of strength 2 takes than under plain descent, simulated."""
    paths = redundant((2**0.5, 2**0.5), start=1e-4)
    plain_one = Mechanism(mechanism.lr)
    found = half_times([(paths, (mechanism, mechanism)), (paths, (plain_one, plain_one))], 12000)
    return float(found[0, 0] / found[1, 0])


@pytest.mark.parametrize("held", ["path", "encoder"])
def test_closed_form_and_recursion_agree_within_5_percent_over_the_grid(held):
    cases: list[Case] = []
    for lr, tau, k, beta in itertools.product((0.01, 0.05), (0, 1, 2, 4, 8), (1, 2, 4), (0.0, 0.5, 0.9)):
        fast = Mechanism(lr, beta, tau, k, held=held)
        cases.append((redundant((2**0.5, 1.0), start=1e-4), (fast, Mechanism(lr, beta))))
    with np.errstate(all="ignore"):  # some of these are unstable once they have arrived
        found = half_times(cases, 8000)
    expected = np.array([times(*case).half for case in cases])
    assert np.abs(expected / found - 1).max() < 0.05


def test_the_recursion_reproduces_the_table_of_correlated_modalities():
    """The table of the design: dominant scale 1.6, eta 0.02, start 1e-3; steps to half of the weight."""
    table = {
        0.0: [(138, 349), (275, 349), (412, 349), (549, 349), (151, 349), (164, 349), (187, 349)],
        0.3: [(116, 310), (233, 238), (382, 232), (533, 232), (129, 303), (141, 296), (164, 283)],
        0.6: [(100, 336), (215, 176), (436, 175), (649, 175), (113, 311), (125, 288), (148, 244)],
        0.9: [(88, 770), (367, 141), (1090, 140), (1797, 140), (101, 628), (113, 495), (136, 214)],
    }
    ways = [{"every": k} for k in (1, 2, 3, 4)] + [{"tau": tau} for tau in (2, 4, 8)]
    cases = [(redundant((1.6, 1.0), rho), (Mechanism(0.02, **way), Mechanism(0.02))) for rho in table for way in ways]
    found = half_times(cases, 2000)
    assert [tuple(row) for row in found.tolist()] == [pair for row in table.values() for pair in row]
    assert tables.ways_by_rho(tables.WAYS, "path") in (ROOT / "docs/results/theory.md").read_text(encoding="utf-8")
    # one path after the other: true to 5 % where both leave well apart, to 15 % where they meet
    expected = np.array([times(*case).half for case in cases])
    assert np.abs(expected / found - 1).max() < 0.15
    assert np.median(np.abs(expected / found - 1)) < 0.01


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_an_interval_stretches_by_exactly_k_whatever_the_rate_and_momentum(k, momentum):
    paths = redundant((1.6, 1.0))
    for lr in (0.004, 0.02):
        one, held = Mechanism(lr, momentum), Mechanism(lr, momentum, every=k)
        found = half_times([(paths, (one, one)), (paths, (held, one))], 8000)
        assert found[1, 0] == k * (found[0, 0] - 1) + 1  # the last of the updates comes k (n - 1) steps after the first
        assert growth_rate(held, 2.56) == pytest.approx(growth_rate(one, 2.56) / k)


def test_with_a_free_head_an_interval_or_a_rate_of_1_over_k_stretches_by_the_root_of_k():
    for k in (2, 4):
        assert stretch(Mechanism(0.02, every=k, held="encoder")) == pytest.approx(math.sqrt(k), rel=0.03)
        assert stretch(Mechanism(0.02, factor=1 / k, held="encoder")) == pytest.approx(math.sqrt(k), rel=0.03)
        assert growth_rate(Mechanism(1e-4, every=k, held="encoder"), 1.0) == pytest.approx(
            encoder_held(1e-4, 1 / k), rel=1e-3
        )


@pytest.mark.parametrize("tau", [2, 4, 8])
def test_a_delay_stretches_by_lamberts_law(tau):
    """Measured in the design at eta 0.05: 1.167, 1.333, 1.611; at eta 0.002: 1.008, 1.016, 1.031."""
    for lr, measured in ((0.05, {2: 1.167, 4: 1.333, 8: 1.611}), (0.002, {2: 1.008, 4: 1.016, 8: 1.031})):
        x = 2 * lr
        assert delayed(x, tau) == pytest.approx(x * math.exp(-delayed(x, tau) * tau))
        discrete = plain(x) / heavy_ball(x, 0.0, tau)
        assert discrete == pytest.approx(measured[tau], rel=0.015)
        assert delay_stretch(x, tau) == pytest.approx(discrete, rel=0.03)
        assert stretch(Mechanism(lr, tau=tau)) == pytest.approx(delay_stretch(x, tau), rel=0.05)
        assert growth_rate(Mechanism(lr, tau=tau, held="encoder"), 2.0) == pytest.approx(
            encoder_delayed(x, tau), rel=0.06
        )


def test_no_stable_delay_holds_a_path_back_by_more_than_about_five_thirds():
    for tau in (1, 2, 4, 8, 16, 64):
        x = stability_limit(0.0, tau) / 2  # the curvature at the solution is 2 s
        assert 1.0 < plain(x) / heavy_ball(x, 0.0, tau) < 1.64
    assert delay_stretch(math.pi / 4, 1) == pytest.approx(1.63, abs=0.01)


def test_the_exact_rate_has_every_closed_form_as_a_case():
    for x, k, beta, tau in itertools.product((0.01, 0.1), (2, 3), (0.0, 0.5, 0.9), (0, 1, 4)):
        assert growth_rate(Mechanism(x, beta, tau), 1.0) == pytest.approx(heavy_ball(x, beta, tau), rel=1e-6)
        assert growth_rate(Mechanism(x, every=k), 1.0) == pytest.approx(frequency_hard(x, k), rel=1e-9)
        soft = Mechanism(x, every=k, masking="soft")
        assert growth_rate(soft, 1.0) == pytest.approx(frequency_soft(x, k, 0.1), rel=1e-9)
    assert heavy_ball(1e-5, 0.9) == pytest.approx(heavy_ball_small(1e-5, 0.9), rel=2e-3)
    # soft masking at small steps is its mean factor, under momentum too
    for beta in (0.0, 0.9):
        masked, matched = (
            Mechanism(1e-4, beta, every=4, masking="soft"),
            Mechanism(1e-4, beta, factor=mean_factor("soft", 4, 0.1)),
        )
        assert growth_rate(masked, 1.0) == pytest.approx(growth_rate(matched, 1.0), rel=2e-3)


def test_unimodal_losses_keep_the_slow_path_going_when_the_fast_one_has_left():
    for gamma, left in itertools.product((0.5, 1.0, 4.0), (1.0, 0.2, 0.0)):
        rate = growth_rate(Mechanism(1e-4, gamma=gamma), left, own=1.0)
        assert rate == pytest.approx(with_unimodal(1e-4 * left, 1e-4, gamma), rel=1e-3)
    for gamma in (0.5, 1.0):
        case: Case = (redundant((1.6, 1.0)), [Mechanism(0.01, gamma=gamma)] * 2)
        assert times(*case).half == pytest.approx(half_times([case], 2000)[0], rel=0.02)
    paths = redundant((1.6, 1.0), 0.9)
    found = half_times([(paths, [Mechanism(0.01, gamma=g)] * 2) for g in (0.0, 1.0)], 4000)
    assert found[0, 1] / found[0, 0] > 8
    assert found[1, 1] / found[1, 0] < 4
    # fusion_preserving holds back the unimodal part alone, and nothing where there is none
    held = Mechanism(1e-4, every=4, masking="fusion_preserving", gamma=1.0, held="encoder")
    assert growth_rate(held, 1.0, 1.0) == pytest.approx(1e-4 * math.sqrt(1 + 1 / 4), rel=1e-3)


@pytest.mark.parametrize("rho", [0.0, 0.4, 0.8])
def test_three_modalities_leave_one_after_the_other(rho):
    paths = redundant((2.0, 1.4, 1.0), rho)
    slow = Mechanism(0.01)
    cases: list[Case] = [(paths, (slow, slow, slow)), (paths, (Mechanism(0.01, every=3), slow, slow))]
    for case, found in zip(cases, half_times(cases, 3000), strict=True):
        assert times(*case).half == pytest.approx(found, rel=0.05)
    assert times(*cases[0]).order == (0, 1, 2)
    assert times(*cases[1]).order == (1, 0, 2) if rho == 0 else times(*cases[1]).order[0] == 1


@pytest.mark.parametrize(("layers", "start"), [(3, 0.05), (4, 0.1)])
def test_deeper_paths_grow_by_a_power_law_that_a_delay_does_not_stretch(layers, start):
    slow, cases = Mechanism(0.02), []
    for rho, fast in itertools.product((0.0, 0.5), (slow, Mechanism(0.02, every=3), Mechanism(0.02, tau=2))):
        cases.append((redundant((1.6, 1.0), rho, start, layers), (fast, slow)))
    for case, found in zip(cases, half_times(cases, 5000), strict=True):
        assert times(*case).half == pytest.approx(found, rel=0.05)
    assert saddle_time(start / 2, 1e9, 1.0, layers) == pytest.approx(
        2 ** (layers - 2) * saddle_time(start, 1e9, 1.0, layers)
    )
    joint, delayed_one = times(*cases[0]).half[0], times(*cases[2]).half[0]
    assert 2 < delayed_one - joint < 2 * layers * math.log(1 / start)


def test_the_unimodal_phase_is_that_of_zhang_latham_saxe():
    for ratio, rho in itertools.product((3.0, 2.0, 1.5), (-0.2, 0.0, 0.5, 0.8)):
        paths = redundant((ratio, 1.0), rho, 1e-8)
        assert unimodal_phase(paths) == pytest.approx(1 + (ratio**2 - 1) / (1 - rho**2))
        leaves = times(paths, [Mechanism(1e-3)] * 2).leaves
        assert leaves[1] / leaves[0] == pytest.approx(unimodal_phase(paths), rel=0.05)


def test_adam_grows_additively_and_knows_no_strength():
    for lr, start in ((3e-4, 1e-4), (1e-3, 1e-4), (1e-2, 1e-3)):
        cases: list[Case] = [
            (redundant((scale, 1.0), start=start), (Mechanism(lr), Mechanism(lr))) for scale in (1.6, 4.0)
        ]
        cases.append((cases[0][0], (Mechanism(lr, every=2), Mechanism(lr))))
        cases.append((cases[0][0], (Mechanism(lr, factor=0.5, held="encoder"), Mechanism(lr))))
        cases.append((cases[0][0], (Mechanism(lr, tau=4), Mechanism(lr))))
        found = half_times(cases, 4000, Adam())
        expected = adam_half_time(lr, start=start)
        assert found[:2] == pytest.approx(expected, rel=0.02)
        assert found[2, 0] == pytest.approx(2 * expected, rel=0.02)
        assert found[3, 0] == pytest.approx(adam_half_time(lr, start=start, held_factor=0.5**0.5), rel=0.02)
        assert abs(found[4, 0] - expected) <= 5
    recursion = Recursion([(redundant((1.6, 1.0), start=1e-6), [Mechanism(1e-5)] * 2)], Adam(beta2=1 - 1e-7))
    sizes = []
    for _ in range(1000):
        recursion.step()
        sizes.append(recursion.layers[0, :, 0])
    speed = (sizes[-1] - sizes[499]) / 500 / 1e-5
    assert speed == pytest.approx([EARLY, EARLY], rel=0.03)


@pytest.mark.parametrize("held", ["path", "encoder"])
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
def test_at_the_interval_factor_or_delay_of_leave_together_both_leave_together(rho, held):
    paths, slow = redundant((1.6, 1.0), rho), Mechanism(0.02)
    found = leave_together(paths, 0.02, held)
    assert found.interval[1] == found.factor[1] == 1.0
    assert found.delay[1] == 0.0
    ways = [{"factor": float(found.factor[0])}, {"tau": round(float(found.delay[0]))}]
    reached = half_times([(paths, (Mechanism(0.02, held=held, **way), slow)) for way in ways], 2000)
    assert reached[:, 0] == pytest.approx(reached[:, 1], rel=0.06)
    # among integers, one of the two around the real-valued k has the smallest gap
    ks = list(range(1, 9))
    reached = half_times([(paths, (Mechanism(0.02, every=k, held=held), slow)) for k in ks], 1200)
    best = ks[int(np.argmin(np.abs(np.minimum(reached[:, 0], 1200) - reached[:, 1])))]
    assert abs(best - found.interval[0]) < 1
    assert not found.stable[0]  # 1.6^2 and more apart: no stable delay does it


def test_paths_refuse_what_means_nothing():
    with pytest.raises(ValueError, match="positive definite"):
        Paths(np.ones(2), np.ones((2, 2)))
    with pytest.raises(ValueError, match="layers"):
        redundant((1.0, 1.0), layers=1)
    with pytest.raises(ValueError, match="two paths"):
        unimodal_phase(redundant((1.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match="two layers"):
        leave_together(redundant((2.0, 1.0), layers=3), 0.1)
    with pytest.raises(ValueError, match="more than two layers"):
        times(redundant((2.0, 1.0), layers=3), [Mechanism(0.1, gamma=1.0)] * 2)
    with pytest.raises(ValueError, match="every >= 1"):
        Mechanism(0.1, every=0)


def test_charts_place_points_on_their_axes_and_labels_apart():
    lines = [Line("low", [(0, 1), (2, 1)]), Line("high", [(0, 100), (2, 101)]), Line("too high", [(2, 1e9)], dots=True)]
    panels = [Panel("y", "x", lines, (0, 1, 2), (1, 100), (1, 100), True), stability_map.panel()]
    root = ElementTree.fromstring(svg(panels))
    name = "{http://www.w3.org/2000/svg}"
    low, high = root.findall(f"{name}polyline")[:2]
    assert [point.split(",")[1] for point in low.get("points", "").split()] == [f"{TOP + HEIGHT:.1f}"] * 2
    assert [point.split(",")[1] for point in high.get("points", "").split()] == [f"{TOP:.1f}"] * 2
    at = {t.text: float(t.get("y", "")) for t in root.findall(f"{name}text") if t.text in ("high", "too high")}
    assert abs(at["high"] - at["too high"]) >= 12
