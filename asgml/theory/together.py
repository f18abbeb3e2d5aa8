"""Which interval, delay or factor makes all paths leave the saddle together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from asgml.theory.mechanism import Held
from asgml.theory.paths import Paths
from callbacks.stages.delay_stability import stability_limit


def interval_of(ratio: float, held: Held, between: float = 0.0) -> float:
    """Return the interval k at which a path leaves with one that is `ratio` times weaker, for small steps.

    The mean factor that is needed is `f = 1 / ratio` where the whole path is held, and `1 / ratio^2` where the head is
    free. A masking that leaves a factor c between two updates has the mean `(1 + (k - 1) c) / k`, so
    `k = (1 - c) / (f - c)`; it is infinite where f is not above c.

    Args:
        ratio: s_m over the weakest strength, 1 or more.
        held: whether the whole path is held or its encoder alone.
        between: c: 0 for `hard` and `accumulate`, `soft_scale` for `soft`.
    """
    needed = ratio ** (-1 if held == "path" else -2)
    return (1 - between) / (needed - between) if needed > between else math.inf


@dataclass(frozen=True)
class Together:
    """Holds by how much each path is to be held back so that it leaves the saddle with the slowest.

    Attributes:
        interval: k of each path, real-valued, shape (N,): 1 for the slowest.
        delay: tau of each path in steps, real-valued, shape (N,).
        factor: the constant factor of each path, shape (N,): 1 for the slowest.
        stable: whether descent under the delay (rounded) is stable at the solution, shape (N,).
    """

    interval: np.ndarray
    delay: np.ndarray
    factor: np.ndarray
    stable: np.ndarray


def leave_together(paths: Paths, lr: float, held: Held = "path") -> Together:
    """Return what makes two-layer paths leave the saddle together under plain gradient descent.

    With `q_m = s_m / min s` of the correlations with the target (those between inputs enter through s alone: nothing
    has been learned yet),

        whole path held:   k_m = log(1 + lr s_m) / log(1 + lr s_min), which is q_m for small steps
                           factor 1 / q_m,   tau_m = log(q_m) / log(1 + lr s_min)
        encoder alone:     k_m = q_m^2,   factor 1 / q_m^2,   tau_m = 2 log(q_m) / log(1 + lr s_min), for small steps

    The delay is the root of `(z - 1) z^tau = lr s_m` at `z = 1 + lr s_min`. The curvature at the solution is 2 s_m
    (that of the encoder alone s_m), so the delay that equalises is stable for `q_m log q_m` below about pi / 4 only:
    for strengths that differ by less than a factor of 1.63, at any learning rate.

    Args:
        paths: the correlations.
        lr: the learning rate.
        held: whether the whole path is held or its encoder alone.

    Raises:
        ValueError: paths of more than two layers.
    """
    if paths.layers != 2:
        raise ValueError("paths of two layers are needed")
    x = lr * np.asarray(paths.strengths, dtype=float)
    ratio, slow = x / x.min(), math.log1p(float(x.min()))
    power = 1 if held == "path" else 2
    interval = np.log1p(x) / slow if held == "path" else ratio**2
    delay = power * np.log(ratio) / slow
    curvature = 2 * x / power
    limits = np.array([stability_limit(0.0, round(float(tau))) for tau in delay])
    return Together(interval, delay, 1 / ratio**power, curvature < limits)
