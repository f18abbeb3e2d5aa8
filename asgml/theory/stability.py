"""Where delays are safe: `python -m asgml.theory.stability` writes the map, and divergence as measured against it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from callbacks.files.atomic import write_text
from callbacks.stages.delay_stability import stability_limit
from suite.report.chart import COLOURS, Line, Panel, svg
from suite.runs.command import command_parser
from suite.runs.surroundings import open_streams

MOMENTA = (0.0, 0.5, 0.9, 0.99)
DELAYS = tuple(range(9))
PAGE = """# Where delayed gradients are stable

`make stability` writes this page and its picture; the text is in `asgml/theory/stability.py`.

Gradient descent that applies the gradient of tau steps ago is stable on a loss of curvature h only while eta h
(learning rate times curvature) stays below a limit, that of the roots of `(z - 1)(z - beta) z^tau + eta h z` in
the unit disc, beta being the momentum. Without momentum it is `2 sin(pi / (2 (2 tau + 1)))`; with momentum and
a delay it is little more than `(1 - beta) / tau`.

![The largest stable eta h, by delay, for four momenta](stability.svg)

Predicted and measured limit of eta h: measured is the point at which the error of the literal recursion stops
shrinking, interpolated between curvatures half a thousandth apart.

{table}

What follows for a run:

- Without momentum a delay of two steps costs a factor of 3.2 in the largest stable learning rate; with momentum
  0.9 a factor of 74, of which the effective rate `lr / (1 - beta)` returns ten. This is why every experiment
  that delays by default trains without momentum.
- Curvature is not given, it grows until it meets the limit. Without momentum training then hovers there (the
  edge of stability) and goes on; under momentum with a delay it goes through the limit, oscillates and falls
  apart. `callbacks.StabilityGuard` measures how far a run is beyond the limit, and says at which delay,
  learning rate or momentum it would be stable.
- `make stability` needs no data. The failures on GRID digits and on `cremad_mini` that this explains are in
  [the log](../LOG.md).
"""


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


def main(argv: Sequence[str] | None = None) -> None:
    """Write `stability.md` and `stability.svg`."""
    open_streams()
    parser = command_parser("python -m asgml.theory.stability", __doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="the folder of the page")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out / "stability.md", PAGE.format(table=table()))
    write_text(arguments.out / "stability.svg", svg([panel()]))
    print(arguments.out / "stability.md")


if __name__ == "__main__":
    main()
