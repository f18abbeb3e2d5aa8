"""Statistics against scipy, against slow literal transcriptions, and against simulated coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from suite import statistics as st

A = np.array([0.61, 0.64, 0.60, 0.66, 0.63])
B = np.array([0.60, 0.61, 0.61, 0.62, 0.60])


def test_mean_interval_is_the_t_interval():
    low, high = stats.t.interval(0.95, 4, loc=A.mean(), scale=stats.sem(A))
    got = st.mean_interval(A)
    assert (got.low, got.high) == pytest.approx((low, high), abs=1e-12)
    assert got.half_width == pytest.approx((high - low) / 2)
    assert st.mean_interval(A, level=0.5).half_width < got.half_width


def test_one_seed_has_no_interval_and_says_so():
    got = st.mean_interval([0.7])
    assert (got.mean, got.low, got.high, got.half_width) == (0.7, None, None, None)
    assert "no interval" in got.note


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf]])
def test_mean_interval_refuses_what_has_no_mean(values):
    with pytest.raises(ValueError):
        st.mean_interval(values)


def test_paired_t_equals_scipy_and_points_from_b_to_a():
    got, ref = st.paired_t(A, B), stats.ttest_rel(A, B)
    assert (got.t, got.p) == pytest.approx((ref.statistic, ref.pvalue), abs=1e-12)
    interval = ref.confidence_interval()
    assert (got.difference.low, got.difference.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert got.difference.mean > 0
    assert got.dz == pytest.approx((A - B).mean() / (A - B).std(ddof=1))
    assert st.paired_t(B, A).difference.mean == -got.difference.mean


@pytest.mark.parametrize(("a", "b"), [([0.6, 0.7, 0.8], [0.5, 0.6, 0.7]), ([0.5, 0.6], [0.5, 0.6]), ([0.9], [0.1])])
def test_differences_without_variation_have_no_p_value(a, b):
    got = st.paired_t(a, b)
    assert got.p is None
    assert got.dz is None
    assert "no test" in got.note


def test_pairs_of_different_length_are_refused():
    with pytest.raises(ValueError, match="same seeds"):
        st.paired_t([1, 2], [1, 2, 3])


def test_holm_equals_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = list(rng.uniform(0, 0.2, size=6))
        order = sorted(range(6), key=lambda i: p[i])
        slow = [0.0] * 6
        for rank, i in enumerate(order):
            slow[i] = max(min(1.0, (6 - j) * p[order[j]]) for j in range(rank + 1))
        assert st.holm(p) == pytest.approx(slow)


def test_holm_leaves_missing_tests_out_of_the_family():
    assert st.holm([0.02, None, 0.03]) == [pytest.approx(0.04), None, pytest.approx(0.04)]
    assert st.holm([]) == []
    with pytest.raises(ValueError):
        st.holm([1.2])


def test_mcnemar_counts_only_discordant_samples():
    a = np.array([1, 1, 1, 1, 1, 0, 0, 1, 1, 0], bool)
    b = np.array([0, 0, 0, 0, 1, 1, 0, 1, 0, 0], bool)
    got = st.mcnemar(a, b)
    assert (got.only_a, got.only_b) == (5, 1)
    tail = sum(math.comb(6, k) for k in (0, 1)) / 2**6
    assert got.p == pytest.approx(2 * tail)
    assert st.mcnemar(a, a).p == 1.0
    with pytest.raises(ValueError):
        st.mcnemar(a, b[:5])


def test_smallest_p_sign_floor_is_the_p_of_unanimous_seeds():
    for n in (2, 5, 10):
        assert st.smallest_p(n).sign_floor == pytest.approx(stats.binomtest(n, n).pvalue)
    assert st.smallest_p(5).sign_floor > 0.06
    assert "cannot reach 0.05" in st.smallest_p(5).sentence
    assert "cannot reach" not in st.smallest_p(10).sentence
    assert st.smallest_p(1).detectable_dz is None
    assert "1 seed" in st.smallest_p(1).sentence


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_detectable_difference_is_found_with_eighty_percent_power(n):
    dz = st.smallest_p(n).detectable_dz
    rng = np.random.default_rng(n)
    d = rng.normal(dz, 1.0, size=(20_000, n))
    t = d.mean(1) / (d.std(1, ddof=1) / np.sqrt(n))
    p = 2 * stats.t.sf(np.abs(t), n - 1)
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.012)


@pytest.mark.parametrize("n", [3, 5, 10, 30])
def test_detectable_difference_is_that_of_scipys_noncentral_t(n):
    nc, critical = st.smallest_p(n).detectable_dz * math.sqrt(n), stats.t.ppf(0.975, n - 1)
    assert stats.nct.sf(critical, n - 1, nc) + stats.nct.cdf(-critical, n - 1, nc) == pytest.approx(0.8, abs=2e-4)


@pytest.mark.parametrize("shift", [-0.02, -0.004, 0.0, 0.007, 0.03])
def test_tost_is_two_one_sided_t_tests_and_its_interval_says_the_same(shift):
    d = np.array([0.004, -0.003, 0.006, 0.001, -0.002]) + shift
    mean = sum(d) / 5
    se = math.sqrt(sum((x - mean) ** 2 for x in d) / 4) / math.sqrt(5)
    above, below = 1 - stats.t.cdf((mean + 0.01) / se, 4), stats.t.cdf((mean - 0.01) / se, 4)
    got = st.tost(B + d, B, 0.01)
    assert got.p == pytest.approx(max(above, below), abs=1e-12)
    one = stats.ttest_1samp(d, -0.01, alternative="greater").pvalue
    two = stats.ttest_1samp(d, 0.01, alternative="less").pvalue
    assert got.p == pytest.approx(max(one, two), abs=1e-12)
    assert (got.low, got.high) == pytest.approx(stats.t.interval(0.9, 4, loc=mean, scale=se), abs=1e-12)
    assert (got.p < 0.05) == (-0.01 < got.low and got.high < 0.01)
    assert st.tost(B, B + d, 0.01).p == pytest.approx(got.p, abs=1e-12)
    strict = st.tost(B + d, B, 0.01, alpha=0.01)
    assert strict.high - strict.low > got.high - got.low


def test_tost_at_the_margin_is_wrong_as_often_as_alpha_says():
    d = np.random.default_rng(3).normal(1.0, 0.3, size=(800, 6))
    assert np.mean([st.tost(row, np.zeros(6), 1.0).p < 0.05 for row in d]) == pytest.approx(0.05, abs=0.02)


def test_tost_says_nothing_without_variation_and_refuses_no_margin():
    same = st.tost(B, B, 0.01)
    assert (same.p, same.low, same.high) == (None, None, None)
    assert "equal" in same.note
    assert st.tost([0.6], [0.5], 0.01).p is None
    with pytest.raises(ValueError, match="margin"):
        st.tost(A, B, 0.0)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_smallest_margin_is_confirmed_with_eighty_percent_power(n):
    margin, d = st.smallest_margin(n), np.random.default_rng(n).normal(size=(20_000, n))
    se = d.std(1, ddof=1) / np.sqrt(n)
    p = np.maximum(stats.t.sf((d.mean(1) + margin) / se, n - 1), stats.t.cdf((d.mean(1) - margin) / se, n - 1))
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.012)


def test_t_interval_covers_the_mean():
    x = np.random.default_rng(1).normal(size=(2000, 4))
    hits = [(e := st.mean_interval(row)).low <= 0 <= e.high for row in x]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_bootstrap_interval_agrees_with_the_normal_interval_and_is_reproducible():
    x = np.random.default_rng(2).random(400) < 0.7
    got = st.bootstrap_interval(x, n_boot=4000)
    half = 1.96 * x.std() / np.sqrt(400)
    assert got.estimate == pytest.approx(x.mean())
    assert (got.low, got.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.006)
    assert got == st.bootstrap_interval(x, n_boot=4000)
    noise = np.random.default_rng(9).normal(size=50)
    assert st.bootstrap_interval(noise, n_boot=99) != st.bootstrap_interval(noise, n_boot=99, seed=1)


def test_groups_widen_the_interval_of_samples_that_agree_within_a_group():
    x = np.repeat(np.random.default_rng(3).random(20) < 0.5, 10).astype(float)
    plain = st.bootstrap_interval(x, n_boot=2000)
    grouped = st.bootstrap_interval(x, groups=np.repeat(np.arange(20), 10), n_boot=2000)
    assert grouped.estimate == pytest.approx(plain.estimate)
    assert (grouped.high - grouped.low) / (plain.high - plain.low) == pytest.approx(np.sqrt(10), rel=0.15)


def test_crossed_bootstrap_enumerates_like_its_definition():
    """All (seed draw, sample draw) pairs of a tiny table, listed literally, have the bootstrap's distribution."""
    table = np.array([[1.0, 0.0], [1.0, 1.0]])
    every = [
        np.mean([table[i][list(items)].mean() for i in seeds])
        for seeds in itertools.product(range(2), repeat=2)
        for items in itertools.product(range(2), repeat=2)
    ]
    got = st.hierarchical_bootstrap({0: table[0], 1: table[1]}, n_boot=20_000, level=0.8)
    low, high = np.quantile(every, [0.1, 0.9], method="inverted_cdf")
    assert got.estimate == pytest.approx(0.75)
    assert (got.low, got.high) == pytest.approx((low, high))


def test_groups_of_one_sample_are_samples():
    x = {s: np.random.default_rng(s).random(50) < 0.6 for s in range(3)}
    plain = st.hierarchical_bootstrap(x, n_boot=500)
    grouped = st.hierarchical_bootstrap(x, groups=np.arange(50), n_boot=500)
    assert (plain.low, plain.high) == pytest.approx((grouped.low, grouped.high))


def _simulate(rng, seeds, items, shift=0.0):
    """Random seed and item effects shared by two methods, plus noise: what a pairing can remove."""
    seed_effect, item_effect = rng.normal(0, 0.3, (seeds, 1)), rng.normal(0, 1.0, (1, items))
    a = seed_effect + item_effect + shift + rng.normal(0, 0.3, (seeds, items))
    b = seed_effect + item_effect + rng.normal(0, 0.3, (seeds, items))
    return dict(enumerate(a)), dict(enumerate(b))


def test_crossed_bootstrap_covers_and_nested_on_a_common_test_set_does_not():
    rng = np.random.default_rng(5)
    hits = {"crossed": 0, "nested": 0}
    for i in range(120):
        a, _ = _simulate(rng, 12, 40)
        for kind in hits:
            got = st.hierarchical_bootstrap(a, n_boot=150, seed=i, samples=kind)
            hits[kind] += got.low <= 0 <= got.high
    assert hits["crossed"] / 120 >= 0.87
    assert hits["nested"] / 120 <= 0.8


def test_pairing_by_seed_and_sample_narrows_the_difference():
    a, b = _simulate(np.random.default_rng(6), 6, 60, shift=0.2)
    paired = st.hierarchical_bootstrap(a, b, n_boot=1000)
    shuffled = {s + 100: x for s, x in b.items()}
    unpaired = st.hierarchical_bootstrap(a, shuffled, n_boot=1000)
    assert paired.paired
    assert not unpaired.paired
    assert "independently" in unpaired.note
    assert paired.estimate == pytest.approx(unpaired.estimate)
    assert paired.high - paired.low < unpaired.high - unpaired.low
    assert paired.low > 0


def test_only_common_seeds_are_paired_and_this_is_said():
    a, b = _simulate(np.random.default_rng(7), 4, 30)
    del b[3]
    got = st.hierarchical_bootstrap(a, b, n_boot=50)
    assert got.n_seeds == 3
    assert "3 common seeds" in got.note
    assert got.estimate == pytest.approx(np.mean([a[s] - b[s] for s in range(3)]))


def test_seeds_with_different_test_sets_need_nested_draws():
    ragged = {0: np.ones(10), 1: np.zeros(12)}
    with pytest.raises(ValueError, match="one test set"):
        st.hierarchical_bootstrap(ragged)
    got = st.hierarchical_bootstrap(ragged, samples="nested", n_boot=200)
    assert got.estimate == 0.5
    assert (got.low, got.high) == (0.0, 1.0)
