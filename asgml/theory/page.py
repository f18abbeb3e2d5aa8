"""The page of the law: `python -m asgml.theory` writes tables and figures in some seconds, without data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asgml.theory import stability_map, tables
from asgml.theory.closed_forms import heavy_ball
from asgml.theory.mechanism import Mechanism
from asgml.theory.paths import redundant
from asgml.theory.simulation import Case, half_times
from asgml.theory.times import times
from callbacks.files.atomic import write_text
from callbacks.stages.delay_stability import stability_limit
from suite.report.chart import COLOURS, Line, Panel, svg

PAGE = """# The law of linear paths, in numbers

`make theory` writes this page and its figures; the derivation, and what follows for real runs, is in
[docs/theory.md](../theory.md). Times are steps until (fast, slow) path reach half of their weight, as simulated, and in
parentheses in closed form. Where nothing else is said: strengths of `y = x_A + x_B` with standard deviations 1.6 and 1
and correlation rho, eta 0.02, all layers 0.001 at the start, plain gradient descent.

## Closed form against the recursion

Both times of two uncorrelated paths of strengths 2 and 1 (start 0.0001): delay 0, 1, 2, 4, 8 × interval 1, 2, 4 of the
fast path, hard, in every combination. *path*: delay and interval hold the whole path; *encoder*: they hold its first
layer, the head is free.

{grid}

The stretch of a delay alone, strength 2:

{delays}

## Redundant modalities: the whole path held

{path}

![Steps to half of the weight over the interval and over the delay](theory_times.svg)

## Redundant modalities: the encoder held, the head free, as in the suite

{encoder}

The same with unimodal losses, gamma 1, as simulated (no closed form of the half weight: the fused head follows the
encoder):

{gamma}

## Leaving together

{together}

## How far each mechanism holds the fast path back

Time on the saddle over that of plain training. The load is eta times curvature over the stability limit of the delay
(that of tau 2 for mechanisms without one), which `StabilityGuard` measures in a run.

{stretches}

![The stability map, and the longest stretch that a stable delay can give](theory_delay.svg)

## Adam

{adam}

## Depth

Three and four layers, eta 0.01, rho 0.3:

{deeper}

## Three modalities

Standard deviations 2, 1.4 and 1, eta 0.01:

{three}
"""


def times_panel(title: str, name: str, values: Sequence[int], key: str) -> Panel:
    """Return the steps to half of the weight over an interval or a delay: closed form as lines, simulated as dots."""
    lines = []
    slow = Mechanism(tables.LR)
    for rho, colour in zip((0.0, 0.6, 0.9), COLOURS, strict=False):
        paths = redundant((tables.SCALE, 1.0), rho)
        cases: list[Case] = [(paths, (Mechanism(tables.LR, **{key: v}), slow)) for v in values]  # type: ignore[arg-type]
        found = half_times(cases, 4000)
        closed = [times(*case).half for case in cases]
        for i, which in enumerate(("fast", "slow")):
            label = f"{which}, rho {rho:g}"
            curve = [(v, float(c[i])) for v, c in zip(values, closed, strict=True)]
            lines.append(Line(label, curve, colour, dashed=i == 1))
            lines.append(Line("", [(v, float(f)) for v, f in zip(values, found[:, i], strict=True)], colour, dots=True))
    return Panel(title, name, lines, values, (50, 100, 200, 500, 1000, 2000), (50, 2000), True)


def stretch_panel() -> Panel:
    """Return the longest stretch of the time on the saddle that a stable delay can give, by delay and momentum."""
    lines = []
    for beta, colour in zip(stability_map.MOMENTA, COLOURS, strict=False):
        # a whole path of strength s ends at a curvature of 2 s
        loads = [(tau, stability_limit(beta, tau) / 2) for tau in stability_map.DELAYS]
        points = [(float(tau), heavy_ball(x, beta) / heavy_ball(x, beta, tau)) for tau, x in loads]
        lines.append(Line(f"momentum {beta:g}", points, colour))
    lines.append(Line("k 2, any rate", [(float(tau), 2.0) for tau in stability_map.DELAYS], COLOURS[5], dashed=True))
    title = "longest time on the saddle that a stable delay can give, over that without"
    return Panel(title, "delay tau, steps", lines, stability_map.DELAYS, (1.0, 1.2, 1.4, 1.6, 1.8, 2.0), (1.0, 2.1))


def write(out: Path) -> None:
    """Write `theory.md`, `theory_times.svg` and `theory_delay.svg` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    page = PAGE.format(
        grid=tables.grid(),
        delays=tables.delays(),
        path=tables.ways_by_rho(tables.WAYS, "path"),
        encoder=tables.ways_by_rho(tables.WAYS, "encoder"),
        gamma=tables.ways_by_rho(tables.WAYS, "encoder", gamma=1.0, closed=False),
        together=tables.together(),
        stretches=tables.stretches(),
        adam=tables.adam(),
        deeper=tables.deeper(),
        three=tables.three(),
    )
    write_text(out / "theory.md", page)
    steps = "steps to half of the weight"
    panels = [
        times_panel(steps, "interval k", (1, 2, 3, 4), "every"),
        times_panel(steps, "delay tau, steps", range(0, 9, 2), "tau"),
    ]
    write_text(out / "theory_times.svg", svg(panels))
    write_text(out / "theory_delay.svg", svg([stability_map.panel(), stretch_panel()]))
    print(out / "theory.md")
