"""The figure of the page: what every row gains over `uniform`, with its interval, a panel per data set."""

from __future__ import annotations

import math
from collections.abc import Sequence

from asgml.tune.page.evidence import Evidence
from asgml.tune.page.questions import Pair
from asgml.tune.page.wording import Kind, points, verdict
from suite.report.chart import COLOURS, Line, Panel, svg
from suite.report.tables import PERCENT

HUES: dict[Kind, str] = {
    "helps": COLOURS[1],
    "harms": COLOURS[2],
    "equivalent": COLOURS[0],
    "undecided": COLOURS[5],
}
PER_ROW = 17  # height of a row
RIGHT = 210  # room for the names of rows
LIMIT = 10.0  # percentage points beyond which no axis goes


def panel(data: Evidence, pairs: Sequence[Pair], margin: float) -> Panel:
    """Return the panel of a data set: mean and 95 % interval per row, the first at the top.

    Args:
        data: the data set.
        pairs: its comparisons with `uniform`.
        margin: the margin of equivalence, in percentage points; it is drawn dashed.
    """
    shown = [p for p in pairs if p.found.test is not None]
    spans = [(p, p.found.test.difference) for p in shown if p.found.test is not None]
    far = [abs(v) * PERCENT for _, d in spans for v in (d.mean, d.low, d.high) if v is not None]
    end = min(LIMIT, max([2 * margin, *map(math.ceil, far)]))
    top = len(spans) + 1.0
    lines = [Line("", [(x, 0.0), (x, top)], COLOURS[5], dashed=x != 0) for x in (-margin, 0.0, margin)]

    def at(value: float) -> float:
        return min(max(value * PERCENT, -end), end)

    for place, (pair, d) in enumerate(spans):
        y, hue = top - 1 - place, HUES[verdict(pair.found, margin).kind]
        if d.low is not None and d.high is not None:
            lines.append(Line("", [(at(d.low), y), (at(d.high), y)], hue))
        lines.append(Line("", [(at(d.mean), y)], hue, dots=True))
        lines.append(Line(pair.row, [(end, y)], hue))
    ticks = [-end, -margin, 0.0, margin, end]
    state = "" if data.finished else ", not finished"
    return Panel(f"{data.name}{state}", "points over uniform", lines, ticks, (), (0.0, top), right=RIGHT)


def forest(sets: Sequence[Evidence], pairs: Sequence[Pair], margin: float) -> str:
    """Return the figure as SVG, two panels side by side.

    Green helps, red harms (p after Holm), blue is equivalent within the margin, grey undecided.
    """
    own = {data.name: [p for p in pairs if p.data == data.name] for data in sets}
    panels = [panel(data, own[data.name], margin) for data in sets if own[data.name]]
    rows = max((len(p) for p in own.values()), default=0)
    return svg(panels, across=2, height=max(120, PER_ROW * (rows + 1)))


def caption(margin: float) -> str:
    """Return what the figure shows."""
    return (
        f"Test accuracy of every row that holds an encoder back minus that of `uniform`, mean and 95 % interval; "
        f"dashed: {points(margin)}. Green: helps, red: harms (p after Holm below 0.05), blue: equivalent, grey: "
        "undecided."
    )
