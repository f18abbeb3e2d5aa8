"""When each path leaves the saddle: one after the other, each at the rate that the learned ones leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asgml.theory.depth import arrival, delay_cost, progress
from asgml.theory.mechanism import Mechanism
from asgml.theory.paths import Paths
from asgml.theory.saddle import growth_rate, saddle
from callbacks.stages.frequency import mean_factor


@dataclass(frozen=True)
class Times:
    """Holds when the paths leave the saddle and arrive, in steps.

    Attributes:
        leaves: when each path's linear growth arrives at its plateau, shape (N,); infinite for one that never does.
        half: when each path's weight reaches the share of its final weight, shape (N,).
        order: the paths in the order in which they leave.
    """

    leaves: np.ndarray
    half: np.ndarray
    order: tuple[int, ...]


def times(paths: Paths, mechanisms: Sequence[Mechanism], share: float = 0.5) -> Times:
    """Return when every path leaves the saddle and reaches a share of its final weight, in closed form.

    All paths advance at the rate of their residual strengths (`Paths.residual`). The first to arrive at its plateau
    leaves; what it has learned is taken from the strengths of the others, and so on. The rate of two layers is the
    exact one of `saddle`; of more layers, plain steps with the mean factor of the masking, and `delay_cost`.

    Limits: paths that leave within a few steps of each other learn at once, not one after the other, and share the
    plateau (an error of up to 15 % in the slow one). With a unimodal loss and correlated inputs the encoder arrives as
    told, and the head of the fused loss follows it later: `leaves` holds, `half` is a lower bound. More than two layers
    are balanced (`held: path`, no momentum, no unimodal loss).

    Args:
        paths: the correlations.
        mechanisms: how each path is trained.
        share: the share of the final weight that is waited for.

    Raises:
        ValueError: a mechanism that more than two layers have no closed form for.
    """
    n, layers = len(paths.strengths), paths.layers
    aims = share * paths.final
    leaves, half = np.full(n, np.inf), np.full(n, np.inf)
    at = np.array([_start(paths, m, i) for i, m in enumerate(mechanisms)])
    now, learned = 0.0, list[int]()
    while len(learned) < n:
        left = paths.residual(learned)
        waiting = [i for i in range(n) if i not in learned]
        plateau = {i: float(paths.fitted([*learned, i])[-1]) for i in waiting}
        rate = {i: _rate(paths, mechanisms[i], float(left[i]), float(paths.strengths[i])) for i in waiting}
        goal = {i: progress(plateau[i] ** (1 / layers), layers) if plateau[i] > 0 else np.inf for i in waiting}
        wait = dict.fromkeys(waiting, np.inf)
        for i in waiting:
            if rate[i] > 0 and np.isfinite(goal[i]):
                lag = _lag(paths, mechanisms[i], rate[i], float(left[i]), float(paths.strengths[i]), plateau[i])
                wait[i] = max(0.0, (goal[i] - at[i]) / rate[i] + lag)
        first = min(waiting, key=wait.__getitem__)
        if np.isinf(wait[first]):
            break
        now += wait[first]
        for i in waiting:
            at[i] += rate[i] * wait[first]
        learned.append(first)
        leaves[first] = now
        # those that were waiting for more than their plateau reach it when this one takes over the rest
        plateaus = dict(zip(learned, paths.fitted(learned), strict=True))
        for i in learned:
            if np.isinf(half[i]) and plateaus[i] > aims[i]:
                after = arrival(layers, plateaus[i], aims[i], paths.start) / rate[first] if i == first else 0.0
                half[i] = now + after
    return Times(leaves, half, tuple(learned))


def constant_factor(mechanism: Mechanism) -> float:
    """Return the mean factor over a period, of masking and constant factor together; `fusion_preserving` has none."""
    m = mechanism
    return m.factor * (1.0 if m.masking == "fusion_preserving" else mean_factor(m.masking, m.every, m.soft_scale))


def _start(paths: Paths, mechanism: Mechanism, path: int) -> float:
    """Return a path's progress at step 0, of the growing direction for two layers."""
    if paths.layers > 2:
        m = mechanism
        if m.held != "path" or m.momentum or m.gamma or m.masking == "fusion_preserving":
            raise ValueError("more than two layers: held 'path', no momentum, gamma 0 and masking hard or soft")
        return progress(paths.start, paths.layers)
    s = float(paths.strengths[path])
    return progress(paths.start * saddle(mechanism, s, s).scale, 2)


def _rate(paths: Paths, mechanism: Mechanism, left: float, own: float) -> float:
    """Return by how much a path advances per step where the fused loss still offers it `left`."""
    if paths.layers > 2:
        return mechanism.lr * constant_factor(mechanism) * left
    return growth_rate(mechanism, left, own)


def _lag(paths: Paths, mechanism: Mechanism, rate: float, left: float, own: float, plateau: float) -> float:
    """Return how many steps later than at a constant rate a path leaves because of what acts late in its updates.

    Delay and momentum slow the exponential growth; they slow less and less as the path saturates. Over the way of
    `log u` to the plateau the time per unit falls from 1 / rate to 1 / rate_0, which is that without any lag: with two
    layers it is `(1 / rate - 1 / rate_0) / 2` less than the linear law says. With more, the linear law is the one
    without lag, and a delay comes on top.
    """
    m, layers = mechanism, paths.layers
    if layers > 2:
        return delay_cost(paths.start, plateau ** (1 / layers), layers, m.tau)
    share = constant_factor(m) if m.held == "path" else constant_factor(m) ** 0.5
    instant = m.lr * share * float(np.hypot(left, m.gamma * own)) / (1 - m.momentum)
    return -0.5 * (1 / rate - 1 / instant)
