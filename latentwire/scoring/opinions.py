"""Opinions of several readers on candidate answers: calibrated, pooled, abstained from. Functions on tensors.

Scores (…, N, C) are log-probabilities of up to C candidate answers to each of N questions; `mask` (N, C) is true on
candidates, false on padding. Every question has one candidate or more.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Pool = Literal["product", "mean"]
COLDEST, HOTTEST = 0.05, 20.0  # temperatures that are looked at
STEPS = 60  # of the golden section: the interval shrinks by 0.618 in each
BINS = 10


def probabilities(scores: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Return p(c) = softmax over the candidates of score(c) / temperature, (…, N, C); 0 on padding."""
    return (scores / temperature).masked_fill(~mask, -math.inf).softmax(-1)


def log_loss(scores: Tensor, mask: Tensor, right: Tensor, temperature: float) -> Tensor:
    """Return the mean of −log Σ p(c) over the right candidates c, () in nats.

    Args:
        scores: (N, C).
        mask: (N, C).
        right: (N, C), true on candidates that are right; questions without any are left out.
        temperature: what scores are divided by.
    """
    scaled = (scores / temperature).masked_fill(~mask, -math.inf)
    answered = right.any(1)
    good = scaled.masked_fill(~right, -math.inf)[answered]
    return (scaled[answered].logsumexp(1) - good.logsumexp(1)).mean()


def fit_temperature(scores: Tensor, mask: Tensor, right: Tensor) -> float:
    """Return the temperature of least `log_loss` (Guo et al., 2017, §4.2), by golden section over its logarithm.

    Args:
        scores: (N, C), of validation.
        mask: (N, C).
        right: (N, C).

    Raises:
        ValueError: no question has a right candidate and another one: any temperature is as good.
    """
    telling = right.any(1) & (mask & ~right).any(1)
    if not bool(telling.any()):
        raise ValueError("no question with a right candidate and a wrong one")
    told = scores[telling].double(), mask[telling], right[telling]
    low, high, golden = math.log(COLDEST), math.log(HOTTEST), (math.sqrt(5) - 1) / 2
    for _ in range(STEPS):
        one, two = high - golden * (high - low), low + golden * (high - low)
        if log_loss(*told, math.exp(one)) <= log_loss(*told, math.exp(two)):
            high = two
        else:
            low = one
    return math.exp((low + high) / 2)


def pooled(p: Tensor, mask: Tensor, rule: Pool) -> Tensor:
    """Pool the readers' probabilities (J, N, C) to (N, C), 0 on padding.

    `mean` is the linear pool Σ_j p_j / J (Stone, 1961), `product` the normalised Π_j p_j (Hinton, 1999).
    """
    if rule == "mean":
        return p.mean(0)
    logs = p.clamp_min(torch.finfo(p.dtype).tiny).log().sum(0)
    return logs.masked_fill(~mask, -math.inf).softmax(-1)


def agreement(choices: Tensor) -> Tensor:
    """Return where all readers choose the same candidate, (N,) bool, of choices (J, N)."""
    return (choices == choices[:1]).all(0)


def coverage_curve(confidence: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return coverage and accuracy (K,) of answering at each threshold of confidence, the highest first.

    Questions of equal confidence are answered together, so K is the number of different confidences.

    Args:
        confidence: (N,).
        right: (N,), 1 where the answer is right.
    """
    order = confidence.argsort(descending=True)
    sorted_, good = confidence[order], right[order].double().cumsum(0)
    last = torch.ones_like(sorted_, dtype=torch.bool)
    last[:-1] = sorted_[:-1] != sorted_[1:]
    answered = torch.arange(1, len(sorted_) + 1, dtype=torch.double)[last]
    return answered / len(sorted_), good[last] / answered


def accuracy_at(coverage: float, confidence: Tensor, right: Tensor) -> float:
    """Return the accuracy of the most confident answers, at least `coverage` of all, ties answered together."""
    share, accuracy = coverage_curve(confidence, right)
    return float(accuracy[share >= coverage - 1e-12][0])


def mean_risk(confidence: Tensor, right: Tensor) -> float:
    """Return the area under risk over coverage (Geifman, Uziel & El-Yaniv, ICLR 2019): the mean over N thresholds.

    Ties are answered together, each at the risk of all of them.
    """
    share, accuracy = coverage_curve(confidence, right)
    steps = torch.cat([share[:1], share[1:] - share[:-1]])
    return float((steps * (1 - accuracy)).sum())


def threshold_for(accuracy: float, confidence: Tensor, right: Tensor) -> float:
    """Return the lowest confidence from which on answers reach an accuracy; infinity where none does.

    Args:
        accuracy: what is asked.
        confidence: (N,), of validation.
        right: (N,), 1 where the answer is right.
    """
    _, reached = coverage_curve(confidence, right)
    levels = confidence.unique().flip(0)
    good = levels[reached >= accuracy - 1e-12]
    return float(good.min()) if len(good) else math.inf


def calibration_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> float:
    """Return Σ_b n_b / N |accuracy_b − confidence_b| over equal bins of confidence (Guo et al., 2017, equation 3)."""
    place = (confidence * bins).long().clamp(0, bins - 1)
    total = 0.0
    for b in range(bins):
        inside = place == b
        if bool(inside.any()):
            gap = right[inside].double().mean() - confidence[inside].double().mean()
            total += float(inside.double().mean() * gap.abs())
    return total
