"""How one path of L layers grows: exponentially for two, by a power law for more."""

from __future__ import annotations

import numpy as np
from scipy.integrate import quad


def progress(u: float, layers: int) -> float:
    """Return the coordinate in which a path advances at a constant speed on the saddle.

    A balanced path follows `u' = x u^(L - 1)`, so `log u` (L = 2) or `-u^(2 - L) / (L - 2)` advances by x per step.

    Args:
        u: the weight of every layer.
        layers: the number of layers, L.
    """
    return float(np.log(u)) if layers == 2 else -(u ** (2 - layers)) / (layers - 2)


def saddle_time(start: float, end: float, x: float, layers: int) -> float:
    """Return the steps from layers of weight `start` to `end` without saturation.

    For L > 2 and a small start that is `start^-(L - 2) / ((L - 2) x)`: halving the start doubles the time at three
    layers, where at two it adds `log 2 / x` (Saxe, McClelland, Ganguli, ICLR 2014).
    """
    return (progress(end, layers) - progress(start, layers)) / x


def arrival(layers: int, plateau: float, aim: float, start: float) -> float:
    """Return, in units of progress, how much later than the switch a path's weight w reaches `aim`.

    The switch is the moment at which the linear law arrives at the plateau: the integral over what is still missing,
    `int (1 - w / plateau) dt`, makes it the moment at which the others, on average, see the path as learned. What is
    returned is `int du / (u^(L - 1) (1 - u^L / plateau))` up to the aim, less the linear law's way to the plateau:
    `log(aim / (plateau - aim)) / 2` for two layers, infinite where the aim is not below the plateau.

    Args:
        layers: the number of layers, L.
        plateau: what the path's weight grows to in this phase.
        aim: the weight that is waited for.
        start: the weight of a layer at the start.
    """
    if aim >= plateau:
        return float("inf")
    if layers == 2:
        return 0.5 * float(np.log(aim / (plateau - aim)))
    # 1 / (u^(L-1) (1 - u^L / p)) = u^(1-L) + u / (p - u^L): only the second part is not elementary
    lag = quad(lambda u: u / (plateau - u**layers), start, aim ** (1 / layers))[0]
    return progress(aim ** (1 / layers), layers) - progress(plateau ** (1 / layers), layers) + lag


def delay_cost(start: float, plateau: float, layers: int, tau: float) -> float:
    """Return how many steps a delay adds for L > 2, to first order: `tau ((L - 1) log(plateau / start) - (L - 1) / L)`.

    A path of more than two layers grows by a vanishing share per step while it is small, so a delay costs some steps
    once and does not stretch the time.

    Args:
        start: the weight of every layer at the start.
        plateau: the weight of every layer in the end.
        layers: the number of layers, L.
        tau: the delay, in steps.
    """
    return tau * (layers - 1) * (float(np.log(plateau / start)) - 1 / layers)
