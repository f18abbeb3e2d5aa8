"""The map of safe delays: the largest stable learning rate times curvature, as predicted and as measured."""

from __future__ import annotations

import numpy as np

from callbacks.stages.delay_stability import stability_limit
from suite.report.chart import COLOURS, Line, Panel

MOMENTA = (0.0, 0.5, 0.9, 0.99)
DELAYS = tuple(range(9))


def measured_limit(beta: float, tau: int, steps: int = 4000) -> float:
    """Return the eta h at which delayed descent on a quadratic stops converging, from the recursion itself.

    Args:
        beta: the momentum.
        tau: the delay, in steps.
        steps: the length of the recursion.
    """
    around = stability_limit(beta, tau) * np.linspace(0.99, 1.01, 41)
    weights = [np.ones_like(around)] * (tau + 1)
    velocity, early, late = np.zeros_like(around), np.zeros_like(around), np.zeros_like(around)
    for t in range(steps):
        velocity = beta * velocity + around * weights[0]
        weights = [*weights[1:], weights[-1] - velocity]
        if steps // 3 <= t < steps // 2:
            early = np.maximum(early, np.abs(weights[-1]))
        elif t >= steps - steps // 6:
            late = np.maximum(late, np.abs(weights[-1]))
    rate = np.log(late / early)
    first = int(np.flatnonzero(rate > 0)[0])
    share = -rate[first - 1] / (rate[first] - rate[first - 1])
    return float(around[first - 1] + share * (around[first] - around[first - 1]))


def table() -> str:
    """Return predicted and measured limits as Markdown."""
    lines = ["| momentum | tau | predicted | measured | ratio |", "|---:|---:|---:|---:|---:|"]
    for beta in (0.0, 0.5, 0.9):
        for tau in (0, 1, 2, 4, 8):
            predicted, measured = stability_limit(beta, tau), measured_limit(beta, tau)
            lines.append(f"| {beta:g} | {tau} | {predicted:.5f} | {measured:.5f} | {measured / predicted:.4f} |")
    return "\n".join(lines)


def panel() -> Panel:
    """Return the map: the largest stable eta h over the delay, one line per momentum, logarithmic."""
    lines = [
        Line(f"momentum {beta:g}", [(tau, stability_limit(beta, tau)) for tau in DELAYS], colour)
        for beta, colour in zip(MOMENTA, COLOURS, strict=False)
    ]
    title = "largest stable learning rate × curvature"
    return Panel(title, "delay tau, steps", lines, DELAYS, (1e-3, 1e-2, 1e-1, 1.0), (5e-4, 5.0), True)
