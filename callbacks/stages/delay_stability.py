"""Where delayed gradients are stable: the map of step size times curvature, momentum and delay."""

from __future__ import annotations

import numpy as np

PRECISION = 1e-9


def growth(step_curvature: float, beta: float, tau: int, nesterov: bool = False) -> float:
    """Return by what factor an error grows per step on a quadratic, in the long run; above 1 it diverges.

    Gradient descent with momentum on a loss of curvature h, where step t applies the gradient of step t - tau, has the
    characteristic polynomial `(z - 1)(z - beta) z^tau + eta h z` (Nesterov: `eta h ((1 + beta) z - beta)` in the last
    term), and its error grows as the largest of the absolute values of the roots.

    Args:
        step_curvature: eta h, the learning rate times the curvature.
        beta: the momentum, of the form `v = beta v + g`, from 0 up to but without 1.
        tau: the delay, in steps.
        nesterov: whether the momentum is Nesterov's.
    """
    polynomial = np.zeros(tau + 3)
    polynomial[:3] = 1.0, -(1.0 + beta), beta
    polynomial[-2] += step_curvature * (1.0 + beta if nesterov else 1.0)
    polynomial[-1] -= step_curvature * beta if nesterov else 0.0
    return float(np.abs(np.roots(polynomial)).max())


def stability_limit(beta: float, tau: int, nesterov: bool = False) -> float:
    """Return the largest eta h (learning rate times curvature) at which delayed gradient descent is stable.

    Without momentum it is `2 sin(pi / (2 (2 tau + 1)))`: 2, 1, 0.618 and 0.445 for tau 0 to 3. Without delay it is
    `2 (1 + beta)`. With both it is little more than `(1 - beta) / tau`: 0.0513 for beta 0.9 and tau 2.

    Args:
        beta: the momentum, of the form `v = beta v + g`, from 0 up to but without 1.
        tau: the delay, in steps.
        nesterov: whether the momentum is Nesterov's.
    """
    low, high = 0.0, 2.0 * (1.0 + beta)  # a delay never widens the range
    if growth(high * (1 - PRECISION), beta, tau, nesterov) <= 1.0:
        return high
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        stable = growth(middle, beta, tau, nesterov) <= 1.0
        low, high = (middle, high) if stable else (low, middle)
    return low


def stable_delay(step_curvature: float, beta: float, tau: int, nesterov: bool = False) -> int | None:
    """Return the largest delay up to `tau` at which eta h is stable, None where it is unstable without any."""
    return next((d for d in range(tau, -1, -1) if step_curvature <= stability_limit(beta, d, nesterov)), None)
