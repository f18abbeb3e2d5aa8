"""The figure of the page: F1 over the positions that a reader spends, and over the bytes that are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from latentwire.page.scores import CODED, TEXT, f1, mean, methods
from latentwire.report.stored import evaluated, plain
from suite.report.chart import COLOURS, Line, Panel, svg
from suite.report.frames import Configuration
from suite.report.tables import PERCENT

SHOWN = ("token_budget", "kv_compaction", "gist", "icae", "static_prefix", "lm_byte_budget", "zstd_byte_budget")
# Marks of the axes; the first and the last are their ends, which hold every method there is.
POSITIONS = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
BYTES = (5.0, 20.0, 100.0, 500.0, 2000.0, 10000.0, 100000.0)
Y_TICKS = (0.0, 25.0, 50.0, 75.0, 100.0)
POINT = tuple[float, float]


def figure(found: Sequence[Configuration]) -> str:
    """Return both panels as SVG; "" where there is nothing to draw."""
    if not found:
        return ""
    panels = [
        Panel("F1 (%)", title, lines(found, cost), ticks, Y_TICKS, (0.0, 101.0), right=220, logarithmic_x=True)
        for title, cost, ticks in (
            ("positions of the reader before the question", "positions", POSITIONS),
            ("bytes of the message or text", "bytes", BYTES),
        )
    ]
    return svg(panels)


def lines(found: Sequence[Configuration], cost: str) -> list[Line]:
    """Return a line per kind of method over a cost; a wire's name is its configuration without the compression."""
    points: dict[str, set[POINT]] = {}
    for c in found:
        known = methods(c)
        for key, m in known.items():
            name = plain(key, m)
            if m["kind"] == "wire":
                name = " ".join(["wire", *c.label.split()[1:]])
            elif name not in (TEXT, CODED, *SHOWN) or m["model"] != _first_model(found):
                continue
            at = mean(c, key, cost)
            if at:  # no logarithm shows a method that costs nothing here
                points.setdefault(name, set()).add((at, PERCENT * f1(c, key)))
    return _drawn(points)


def _first_model(found: Sequence[Configuration]) -> str:
    return str(next(iter(methods(found[0]).values()))["model"])


def _drawn(points: Mapping[str, set[POINT]]) -> list[Line]:
    out = []
    wires = [name for name in points if name.startswith("wire")]
    for place, name in enumerate([*wires, *(n for n in points if n not in wires)]):
        wire = name in wires
        colour = COLOURS[place % (len(COLOURS) - 1)] if wire else COLOURS[-1]
        at = sorted(points[name])
        if len(at) > 1:
            out.append(Line("", at, colour, dashed=not wire))
        out.append(Line(name, at, colour, dots=True))
    return out


def seeds(found: Sequence[Configuration]) -> str:
    """Return how many seeds the configurations have: `3`, or `1 to 3`."""
    counts = sorted({len(evaluated(c)) for c in found})
    return " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "no"
