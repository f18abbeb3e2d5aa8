"""The predictions of docs/theory.md, section 4, that real networks can be held against without tuning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from suite.report.tables import Table, columns, texts
from suite.statistics import Estimate, mean_interval

Times = Mapping[int, float]  # steps by seed
Rows = Mapping[str, tuple[Times, Times]]  # of the dominant and of the other modality, by row
DOMINANT, SLOW = 0, 1
EVER = math.inf


@dataclass(frozen=True)
class Prediction:
    """One prediction: a number of every seed, and where its mean lies.

    Attributes:
        number: its number in docs/theory.md.
        words: what is predicted.
        value: the number from the rows and a seed; KeyError where a time is missing.
        low: the least predicted mean.
        high: the greatest.
        log: whether the number is a ratio, so that its mean is the geometric one.
        delayed: the row with a delay of which it speaks, below its limit of stability; "" for none.
    """

    number: str
    words: str
    value: Callable[[Rows, int], float]
    low: float
    high: float
    log: bool = True
    delayed: str = ""


def _stretch(row: str, of: str, which: int = DOMINANT) -> Callable[[Rows, int], float]:
    return lambda rows, seed: rows[row][which][seed] / rows[of][which][seed]


def _saved(row: str, of: str) -> Callable[[Rows, int], float]:
    """The steps by which a row brings the slow path forward."""
    return lambda rows, seed: rows[of][SLOW][seed] - rows[row][SLOW][seed]


def _apart(row: str) -> Callable[[Rows, int], float]:
    return lambda rows, seed: rows[row][SLOW][seed] / rows[row][DOMINANT][seed]


def _less(a: Callable[[Rows, int], float], b: Callable[[Rows, int], float]) -> Callable[[Rows, int], float]:
    return lambda rows, seed: a(rows, seed) - b(rows, seed)


def _over(a: Callable[[Rows, int], float], b: Callable[[Rows, int], float]) -> Callable[[Rows, int], float]:
    return lambda rows, seed: a(rows, seed) / b(rows, seed)


FACTOR = "delay_2_factor/scale_only"
PREDICTIONS = (
    Prediction("1", "interval 4, hard, stretches the dominant time by 1.9 to 4", _stretch("hard_4", "gamma_1"), 1.9, 4),
    Prediction("1", "interval 2, hard: 1.39 to 2", _stretch("hard_2", "gamma_1"), 1.39, 2),
    Prediction("1", "interval 2, soft: 1.3 to 1.8", _stretch("soft_2", "gamma_1"), 1.3, 1.8),
    Prediction(
        "1",
        "delay 2 with its factor: 1.2 to 1.4",
        _stretch("delay_2_factor", "gamma_1"),
        1.2,
        1.4,
        delayed="delay_2_factor",
    ),
    Prediction("1", "the factor alone: 1.08 to 1.2", _stretch(FACTOR, "gamma_1"), 1.08, 1.2),
    Prediction("1", "delay 2 alone: 1.0 to 1.41", _stretch("delay_2", "gamma_1"), 1.0, 1.41, delayed="delay_2"),
    Prediction("1", "order: interval 4 above interval 2", _stretch("hard_4", "hard_2"), 1, EVER),
    Prediction("1", "hard at least soft", _stretch("hard_2", "soft_2"), 1, EVER),
    Prediction("1", "soft above the delay with its factor", _stretch("soft_2", "delay_2_factor"), 1, EVER),
    Prediction("1", "which is above the factor alone", _stretch("delay_2_factor", FACTOR), 1, EVER),
    Prediction("1", "and above the delay alone", _stretch("delay_2_factor", "delay_2"), 1, EVER),
    Prediction(
        "2",
        "hard and its matched rate alike within 3 %, plain SGD",
        _stretch("hard_2", "hard_2/lr_matched"),
        0.97,
        1.03,
    ),
    Prediction(
        "2",
        "under momentum 0.9 freezing holds back more than the rate",
        _stretch("momentum_hard_2", "momentum_hard_2/lr_matched"),
        1,
        EVER,
    ),
    Prediction(
        "4",
        "unimodal losses bring the slow path forward by more steps than interval 2 does after them",
        _less(_saved("gamma_1", "joint"), _saved("hard_2", "gamma_1")),
        0,
        EVER,
        False,
    ),
    Prediction(
        "4",
        "interval 2 brings the slow path forward by more steps at gamma 0 than at gamma 1",
        _less(_saved("joint_hard_2", "joint"), _saved("hard_2", "gamma_1")),
        0,
        EVER,
        False,
    ),
    Prediction(
        "6",
        "and by fewer at gamma 4 than at gamma 1",
        _less(_saved("hard_2", "gamma_1"), _saved("gamma_4_hard_2", "gamma_4")),
        0,
        EVER,
        False,
    ),
    Prediction(
        "7",
        "slow over dominant time is nearer to 1 under Adam",
        _over(
            lambda rows, seed: math.exp(abs(math.log(_apart("gamma_1")(rows, seed)))),
            lambda rows, seed: math.exp(abs(math.log(_apart("adam")(rows, seed)))),
        ),
        1,
        EVER,
    ),
    Prediction(
        "7",
        "under Adam a delay of 2 changes the dominant time by no more than 2 steps",
        lambda rows, seed: rows["adam_delay_2"][DOMINANT][seed] - rows["adam"][DOMINANT][seed],
        -2,
        2,
        False,
        "adam_delay_2",
    ),
    Prediction("8", "OGM-GE (0.8) stretches the dominant time by 1.7 or more", _stretch("ogm_ge", "joint"), 1.7, EVER),
)


def predicted(sets: Sequence[tuple[str, Rows, Mapping[str, float | None]]]) -> Table:
    """Return every prediction with what each data set shows, and the verdict on it.

    Args:
        sets: by data set the times of every row, and the load of every row that has one.
    """
    rows = []
    for p in PREDICTIONS:
        cells = []
        for _, found, loads in sets:
            got, load = measured(p, found), loads.get(p.delayed) or 0.0
            verdict = "" if got is None else f"unstable, load {load:.2g}" if load >= 1 else judged(p, got)
            cells.append("no times" if got is None else f"{shown(p, got)}: {verdict}")
        rows.append(texts(p.number, p.words, *cells))
    return Table("", columns("no.", "predicted", *(name for name, _, _ in sets)), rows, [])


def measured(p: Prediction, rows: Rows) -> Estimate | None:
    """Return the mean of a predicted number over the seeds that have it (its logarithm, for a ratio), None for none."""
    values = []
    for seed in sorted({seed for own in rows.values() for times in own for seed in times}):
        try:
            value = p.value(rows, seed)
        except KeyError:  # a row that did not run, or never got there with this seed
            continue
        values.append(math.log(value) if p.log else value)
    return mean_interval(np.asarray(values)) if values else None


def _back(p: Prediction, value: float) -> float:
    return math.exp(value) if p.log else value


def shown(p: Prediction, got: Estimate) -> str:
    """Return a measured number with its interval."""
    digits = 2 if p.log else 0
    ends = (
        ""
        if got.low is None or got.high is None
        else f" [{_back(p, got.low):.{digits}f}, {_back(p, got.high):.{digits}f}]"
    )
    return f"{_back(p, got.mean):.{digits}f}{ends}, {got.n} seeds"


def judged(p: Prediction, got: Estimate) -> str:
    """Return the verdict: held, refuted or undecided."""
    if got.low is None or got.high is None:
        return "undecided"
    low, high = _back(p, got.low), _back(p, got.high)
    if low > p.high or high < p.low:
        return "refuted"
    return "held" if low >= p.low and high <= p.high else "undecided"
