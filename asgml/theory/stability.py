"""Where delays are safe: `python -m asgml.theory.stability` writes the map, and divergence as measured against it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from suite.runs.command import command, command_parser

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


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write `stability.md` and `stability.svg`, and return 0."""
    parser = command_parser("python -m asgml.theory.stability", __doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="the folder of the page")
    arguments = parser.parse_args(argv)

    from asgml.theory.stability_map import panel, table
    from callbacks.files.atomic import write_text
    from suite.report.chart import svg

    arguments.out.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out / "stability.md", PAGE.format(table=table()))
    write_text(arguments.out / "stability.svg", svg([panel()]))
    print(arguments.out / "stability.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
