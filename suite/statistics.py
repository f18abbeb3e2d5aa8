"""Intervals and tests for comparing methods over seeds and over test samples: pure functions on numpy arrays.

Differences are always `a - b`. A quantity that the data cannot give (an interval from one seed, a p value from
differences that do not vary) is None and the `note` says why; it is never replaced by a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval.

    Attributes:
        mean: the mean.
        low, high: the ends of the interval, None where there is none.
        n: the number of values.
        sd: their standard deviation, None where there is none.
        note: the reason why something is missing.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    sd: float | None = None
    note: str = ""

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval, in the unit of the values."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class PairedTest:
    """What `paired_t` found.

    Attributes:
        difference: the mean of `a - b` with its interval.
        t, p: the statistic and its two-sided p value, None without a test.
        dz: the mean over the standard deviation of the differences, None without a test.
        n: the number of pairs.
        note: the reason why there is no test.
    """

    difference: Estimate
    t: float | None
    p: float | None
    dz: float | None
    n: int
    note: str = ""


@dataclass(frozen=True)
class Equivalence:
    """What `tost` found.

    Attributes:
        p: the larger of the two one-sided p values, None without a test.
        low, high: the ends of the interval of level 1 - 2 alpha, which lies within ±margin exactly where p < alpha.
        n: the number of pairs.
        note: the reason why there is no test.
    """

    p: float | None
    low: float | None
    high: float | None
    n: int
    note: str = ""


@dataclass(frozen=True)
class McNemar:
    """The numbers of samples that only a or only b has right, and the exact two-sided p value."""

    only_a: int
    only_b: int
    p: float


@dataclass(frozen=True)
class Bootstrap:
    """A percentile interval.

    Attributes:
        estimate: the value on the data themselves, not the mean of the replicates.
        low, high: the ends of the interval.
        n_seeds, n_samples: the numbers of seeds and of samples.
        paired: whether seeds were drawn as pairs.
        note: what limits the interval.
    """

    estimate: float
    low: float
    high: float
    n_seeds: int
    n_samples: int
    paired: bool = False
    note: str = ""


@dataclass(frozen=True)
class SeedLimits:
    """What a comparison over `n` paired seeds can show at best, see `smallest_p`."""

    n: int
    sign_floor: float
    detectable_dz: float | None
    alpha: float
    power: float

    @property
    def sentence(self) -> str:
        """The limits as one footnote."""
        if self.n < 2 or self.detectable_dz is None:
            return "1 seed: no interval over seeds and no test; a difference may be the luck of the seed."
        floor = f"{self.sign_floor:.3g}"
        reach = "" if self.sign_floor < self.alpha else f", so it cannot reach {self.alpha:g}"
        return (
            f"{self.n} seeds: a sign test cannot go below p = {floor}{reach}; a paired t test at {self.alpha:g} "
            f"finds with {self.power:.0%} power only differences of at least {self.detectable_dz:.2f} standard "
            "deviations of the paired difference."
        )


def _finite(values: ArrayLike, what: str) -> Floats:
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if not np.isfinite(x).all():
        raise ValueError(f"{what}: {int((~np.isfinite(x)).sum())} of {x.size} values are not finite")
    return x


def mean_interval(values: ArrayLike, level: float = 0.95) -> Estimate:
    """Return Student's t interval of a mean: `mean ± t_{n-1, (1+level)/2} * s / sqrt(n)`, s with n - 1.

    One value gives no interval (said in `note`); no value or a non-finite one is a ValueError.
    Source: Student (1908), The probable error of a mean.
    """
    x = _finite(values, "mean_interval")
    if x.size == 0:
        raise ValueError("mean_interval: no values")
    mean = float(x.mean())
    if x.size == 1:
        return Estimate(mean, None, None, 1, None, "one value: no interval")
    sd = float(x.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, x.size - 1)) * sd / float(np.sqrt(x.size))
    note = "" if sd > 0 else "all values are equal"
    return Estimate(mean, mean - half, mean + half, int(x.size), sd, note)


def paired_t(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> PairedTest:
    """Test `a` against `b` (same seed at the same place): `t = mean(d) / (s_d / sqrt(n))`, d = a - b.

    dz is `mean(d) / s_d` (Lakens 2013, eq. 6). With fewer than two pairs, or when all differences are equal, t, p and
    dz do not exist (None): the t distribution describes no variation there, and "p = 0" would be an artefact.
    """
    x, y = _finite(a, "paired_t a"), _finite(b, "paired_t b")
    if x.shape != y.shape:
        raise ValueError(f"paired_t: {x.size} values against {y.size}; pairs need the same seeds in both")
    d = x - y
    difference = mean_interval(d, level)
    if d.size < 2 or difference.sd is None:
        return PairedTest(difference, None, None, None, int(d.size), "one pair: no test")
    # Differences that are equal up to rounding (0.6 - 0.5 against 0.7 - 0.6) do not vary either.
    if difference.sd <= 1e-12 * max(float(np.abs(np.concatenate([x, y])).max()), 1e-300):
        return PairedTest(difference, None, None, None, int(d.size), "all differences are equal: no test")
    dz = difference.mean / difference.sd
    t = dz * float(np.sqrt(d.size))
    return PairedTest(difference, t, float(2 * stats.t.sf(abs(t), d.size - 1)), dz, int(d.size))


def tost(a: ArrayLike, b: ArrayLike, margin: float, alpha: float = 0.05) -> Equivalence:
    """Test that the mean of d = a - b (same seed at the same place) lies within ±margin: two one-sided paired t tests.

    `p = max(P(T > (mean(d) + margin) / se), P(T < (mean(d) - margin) / se))`, se = s_d / sqrt(n), T with n - 1 degrees
    of freedom. There is none where `paired_t` has none: pairs that all differ alike say nothing of other seeds.
    Source: Schuirmann (1987), A comparison of the two one-sided tests procedure and the power approach.
    """
    if margin <= 0:
        raise ValueError(f"tost: the margin is {margin:g}, and must be above 0")
    test = paired_t(a, b, 1 - 2 * alpha)
    if test.p is None or test.difference.sd is None:
        return Equivalence(None, None, None, test.n, test.note)
    d, df, se = test.difference, test.n - 1, test.difference.sd / np.sqrt(test.n)
    p = max(stats.t.sf((d.mean + margin) / se, df), stats.t.cdf((d.mean - margin) / se, df))
    return Equivalence(float(p), d.low, d.high, test.n)


def smallest_margin(n_seeds: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the margin that `tost` over `n_seeds` >= 2 pairs confirms with the given power where means are equal, in
    standard deviations of the paired difference: `P(|mean(d)| < margin - t_{n-1, 1-alpha} s_d / sqrt(n)) = power`.
    """
    critical, s = float(stats.t.ppf(1 - alpha, n_seeds - 1)), _spreads(n_seeds - 1)

    def missing(margin: float) -> float:
        reach = np.maximum(margin * np.sqrt(n_seeds) - critical * s, 0.0)
        return float((2 * stats.norm.cdf(reach) - 1).mean()) - power

    return float(optimize.brentq(missing, 1e-6, 1e3))


def holm(pvalues: Sequence[float | None]) -> list[float | None]:
    """Return Holm's step-down adjusted p values, in the order given; None (no test) stays None and does not count.

    With p sorted ascending over m tests: `adj_(i) = max_{j <= i} min(1, (m - j + 1) * p_(j))`. Controls the family-wise
    error under any dependence.
    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    known = [i for i, value in enumerate(pvalues) if value is not None]
    p = _finite([value for value in pvalues if value is not None], "holm")
    if ((p < 0) | (p > 1)).any():
        raise ValueError("holm: p values lie outside [0, 1]")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, (p.size - np.arange(p.size)) * p[order])
    adjusted: list[float | None] = [None] * len(pvalues)
    for place, value in zip(order, np.maximum.accumulate(stepped)):
        adjusted[known[int(place)]] = float(value)
    return adjusted


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Test two models' answers to the same samples, arrays (n,) of bool, exactly.

    Only discordant samples count: `p = min(1, 2 * P(X <= min(b, c)))`, X ~ Binomial(b + c, 1/2); p = 1 without any.
    Source: McNemar (1947); exact form as in Dietterich (1998).
    """
    a, b = np.asarray(correct_a, dtype=bool).reshape(-1), np.asarray(correct_b, dtype=bool).reshape(-1)
    if a.shape != b.shape:
        raise ValueError(f"mcnemar: {a.size} samples against {b.size}; both models must answer the same samples")
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    p = 2 * stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)
    return McNemar(only_a, only_b, float(min(1.0, p)))


def smallest_p(n_seeds: int, alpha: float = 0.05, power: float = 0.8) -> SeedLimits:
    """Return what `n_seeds` paired seeds can show at best.

    `sign_floor = 2^(1-n)`: the p of a two-sided sign test when every seed agrees. `detectable_dz`: the standardised
    paired difference that a two-sided paired t test finds with the given power, i.e. the dz with
    `P(|T'_{n-1}(dz * sqrt(n))| > t_{n-1, 1-alpha/2}) = power`, T' noncentral t (Cohen 1988, ch. 2); None for one seed.
    """
    if n_seeds < 1:
        raise ValueError("smallest_p: n_seeds must be at least 1")
    floor = 2.0 ** (1 - n_seeds)
    if n_seeds == 1:
        return SeedLimits(1, floor, None, alpha, power)
    df, critical = n_seeds - 1, float(stats.t.ppf(1 - alpha / 2, n_seeds - 1))
    s = _spreads(df)  # T' = (Z + nc) / s, averaged over s: scipy's nct returns NaN for df 1

    def missing(dz: float) -> float:
        nc = dz * np.sqrt(n_seeds)
        return float((stats.norm.sf(critical * s - nc) + stats.norm.cdf(-critical * s - nc)).mean()) - power

    return SeedLimits(n_seeds, floor, float(optimize.brentq(missing, 1e-6, 100.0)), alpha, power)


def _spreads(df: int) -> Floats:
    """Return quantiles of the standard deviation of standard normal values, s² = chi²_df / df."""
    return np.sqrt(stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, df) / df)


def bootstrap_interval(
    values: ArrayLike, groups: ArrayLike | None = None, n_boot: int = 10_000, seed: int = 0, level: float = 0.95
) -> Bootstrap:
    """Bootstrap the mean of per-sample values (n,), e.g. accuracy or F1 of one model: a percentile interval.

    With `groups` (n,) whole groups (speakers, paragraphs) are drawn, because samples of one group are not independent.
    Source: Efron (1979); clusters: Davison & Hinkley (1997), §3.8.
    """
    x = _finite(values, "bootstrap_interval")
    return hierarchical_bootstrap({0: x}, groups=groups, n_boot=n_boot, seed=seed, level=level)


def hierarchical_bootstrap(
    a: Mapping[int, ArrayLike],
    b: Mapping[int, ArrayLike] | None = None,
    *,
    groups: ArrayLike | None = None,
    n_boot: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    samples: Literal["crossed", "nested"] = "crossed",
) -> Bootstrap:
    """Bootstrap the mean of `a` (or mean a - mean b) over seeds *and* test samples: a percentile interval.

    Each replicate draws seeds with replacement, then samples (or whole `groups`) with replacement.

    Args:
        a, b: seed -> per-sample values (n,), e.g. correct or not, F1. With `b`, seeds that both methods have are drawn
            as pairs (the others are left out, said in `note`); with no common seed the two seed draws are independent.
            A crossed sample draw is shared by both methods.
        groups: the cluster of each sample (n,), e.g. speaker or paragraph.
        n_boot, seed, level: the number of replicates, the seed of their draws, the interval's coverage.
        samples: `crossed`: every seed was tested on the same n samples in the same order, so one sample draw serves all
            seeds of a replicate. `nested`: each seed has its own test samples (lengths may differ), drawn apart. Nested
            draws on a common test set average the sample noise away over seeds and give intervals that are too narrow.

    The seed part is too narrow for few seeds, by about `sqrt((S-1)/S)` and the missing t quantile (Hesterberg 2015):
    below ten seeds read it beside `mean_interval`. With one seed only the samples vary.
    Source: Davison & Hinkley (1997), §3.8; crossed factors: Owen (2007), The pigeonhole bootstrap.
    """
    if samples == "nested" and groups is not None:
        raise ValueError("hierarchical_bootstrap: groups belong to one common test set, use samples='crossed'")
    if not a or (b is not None and not b):
        raise ValueError("hierarchical_bootstrap: no seeds")
    if n_boot < 1:
        raise ValueError("hierarchical_bootstrap: n_boot must be at least 1")
    common = sorted(set(a) & set(b)) if b is not None else sorted(a)
    paired = b is not None and bool(common)
    note = []
    if paired and b is not None and len(common) < max(len(a), len(b)):
        note.append(f"{len(common)} common seeds of {len(a)} and {len(b)}")
    if b is not None and not paired:
        note.append("no common seed: seeds drawn independently")
    rows_a = [_finite(a[s], f"seed {s}") for s in (common if paired or b is None else sorted(a))]
    rows_b = [] if b is None else [_finite(b[s], f"seed {s}") for s in (common if paired else sorted(b))]
    if min(len(rows_a), len(rows_b) or len(rows_a)) == 1:
        note.append("one seed: only samples vary")
    sizes = {r.size for r in rows_a + rows_b}
    if 0 in sizes:
        raise ValueError("hierarchical_bootstrap: a seed has no samples")
    rng = np.random.default_rng(seed)
    if samples == "crossed":
        if len(sizes) > 1:
            raise ValueError(f"hierarchical_bootstrap: {sorted(sizes)} samples; crossed needs one test set")
        table_b = np.stack(rows_b) if rows_b else None
        estimate, draws = _crossed(np.stack(rows_a), table_b, paired, groups, n_boot, rng)
    else:
        estimate, draws = _nested(rows_a, rows_b, paired, n_boot, rng)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    n = int(rows_a[0].size) if samples == "crossed" else int(sum(r.size for r in rows_a))
    n_seeds = min(len(rows_a), len(rows_b) or len(rows_a))
    return Bootstrap(estimate, float(low), float(high), n_seeds, n, paired, "; ".join(note))


def _crossed(
    a: Floats, b: Floats | None, paired: bool, groups: ArrayLike | None, n_boot: int, rng: np.random.Generator
) -> tuple[float, Floats]:
    """Draw pairs of multinomial weights: over seeds and over clusters of samples; a, b: (seeds, samples)."""
    if groups is None:
        counts = np.ones(a.shape[1])
    else:
        labels = np.asarray(groups).reshape(-1)
        if labels.size != a.shape[1]:
            raise ValueError(f"hierarchical_bootstrap: {labels.size} groups for {a.shape[1]} samples")
        _, cluster = np.unique(labels, return_inverse=True)
        counts = np.bincount(cluster).astype(float)
        member = np.zeros((a.shape[1], counts.size))
        member[np.arange(a.shape[1]), cluster] = 1.0
        a, b = a @ member, None if b is None else b @ member  # sums per cluster
    if paired and b is not None:  # one seed draw for both: their difference is a single table
        a, b = a - b, None
    draws = np.empty(n_boot)
    chunk = max(1, 2_000_000 // counts.size)
    for start in range(0, n_boot, chunk):
        size = min(chunk, n_boot - start)
        weights = rng.multinomial(counts.size, np.full(counts.size, 1 / counts.size), size=size).astype(float)
        seed_mean = _draw_seeds(a.shape[0], size, rng) @ a
        if b is not None:
            seed_mean -= _draw_seeds(b.shape[0], size, rng) @ b
        draws[start : start + size] = (weights * seed_mean).sum(1) / (weights @ counts)
    estimate = (a.mean(0) - (0 if b is None else b.mean(0))).sum() / counts.sum()
    return float(estimate), draws


def _draw_seeds(n_seeds: int, size: int, rng: np.random.Generator) -> Floats:
    return rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=size) / n_seeds


def _nested(
    a: list[Floats], b: list[Floats], paired: bool, n_boot: int, rng: np.random.Generator
) -> tuple[float, Floats]:
    if paired and any(x.size != y.size for x, y in zip(a, b)):
        raise ValueError("hierarchical_bootstrap: a pair of runs of one seed has different numbers of samples")

    def one(rows: list[Floats]) -> float:
        chosen = [rows[i] for i in rng.integers(len(rows), size=len(rows)).tolist()]
        return float(np.mean([r[rng.integers(r.size, size=r.size)].mean() for r in chosen]))

    draws = np.empty(n_boot)
    rows = [x - y for x, y in zip(a, b)] if paired else a
    for i in range(n_boot):
        draws[i] = one(rows)
        if b and not paired:
            draws[i] -= one(b)
    estimate = float(np.mean([r.mean() for r in rows]))
    if b and not paired:
        estimate -= float(np.mean([r.mean() for r in b]))
    return estimate, draws
