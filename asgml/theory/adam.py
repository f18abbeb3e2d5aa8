"""The saddle under Adam: growth is additive, and the same for every path, whatever its correlation."""

from __future__ import annotations

import math

import numpy as np
from scipy.integrate import solve_ivp

#: Growth of a layer per step on the saddle, in learning rates, between `1 / (1 - beta1)` and `1 / (1 - beta2)` steps.
EARLY = math.sqrt(3.0)


def adam_half_time(
    lr: float,
    plateau: float = 1.0,
    share: float = 0.5,
    start: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    held_factor: float = 1.0,
) -> float:
    """Return after how many steps a balanced two-layer path reaches a share of its plateau under Adam.

    Adam divides by the root of the mean square of the gradients so far, so the path's strength s cancels. On the saddle
    the gradient is proportional to the layers u themselves: with `u = A t` the mean of u^2 up to t is `u^2 / 3` while t
    is well below `1 / (1 - beta2)`, hence `A = sqrt(3) lr`; later it falls to lr. There is no exponential growth, so a
    small start and a small strength cost nothing, and paths of equal plateaus leave together.

    With saturation, `y = u (1 - u^2 / plateau)` and `u' = lr mhat / sqrt(vhat)`, mhat and vhat being the bias-corrected
    averages of y and y^2. Far from both time constants that is `0.455 sqrt(plateau) / lr` steps to half of the plateau.
    This integrates the equations with both averages in continuous time. An interval k of a whole path multiplies the
    time by k, a constant factor f acts on the learning rate (1 / f); where the encoder alone is held, both act by their
    root. A delay shifts the time by at most tau.

    Args:
        lr: the learning rate.
        plateau: the path's weight in the end.
        share: the share of the plateau.
        start: the weight of each layer at the start.
        beta1: the decay of the first moment.
        beta2: the decay of the second moment.
        held_factor: the factor on the learning rate, 1 / k for an interval, or its root.
    """
    top = math.sqrt(plateau)
    rate = lr * held_factor / top  # per step, in units of the plateau's layer
    fast, slow = -math.log(beta1), -math.log(beta2)

    def slopes(t: float, state: np.ndarray) -> list[float]:
        u, first, second = state
        y = u * (1 - u * u)
        mean, square = first / -math.expm1(-fast * t), second / -math.expm1(-slow * t)
        return [rate * mean / math.sqrt(square), fast * (y - first), slow * (y * y - second)]

    def arrived(t: float, state: np.ndarray) -> float:
        return float(state[0]) - math.sqrt(share)

    arrived.terminal = True  # type: ignore[attr-defined]
    u, begin = start / top, 1e-3
    y = u * (1 - u * u)
    state = [u, y * -math.expm1(-fast * begin), y * y * -math.expm1(-slow * begin)]
    found = solve_ivp(slopes, (begin, 10 / rate), state, events=arrived, rtol=1e-7, atol=1e-12, method="LSODA")
    return float(found.t_events[0][0])
