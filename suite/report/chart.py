"""Line charts as SVG, for pages in Markdown: panels side by side, no script, readable as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = ("#1b6ca8", "#2a9d5c", "#d1495b", "#7a4e9f", "#b8860b", "#4a4a4a")
WIDTH, HEIGHT = 480, 280  # of the area of one panel
LEFT, TOP, RIGHT, BOTTOM = 60, 30, 110, 50


@dataclass(frozen=True)
class Line:
    """Holds one line: its name, its points (x, y), whether it is dashed, and whether the points are marked alone."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str = COLOURS[0]
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Panel:
    """Holds one chart.

    Attributes:
        title: what the vertical axis shows.
        x: the title of the horizontal axis.
        lines: the lines.
        x_ticks: the marks of the horizontal axis; the first and the last are its ends.
        y_ticks: the marks of the vertical axis.
        y_range: the ends of the vertical axis.
        logarithmic: whether the vertical axis is logarithmic.
        right: the room for names at the right.
        logarithmic_x: whether the horizontal axis is logarithmic.
    """

    title: str
    x: str
    lines: Sequence[Line]
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    y_range: tuple[float, float]
    logarithmic: bool = False
    right: int = RIGHT
    logarithmic_x: bool = False


def place(panel: Panel, offset: float, x: float, y: float, height: int = HEIGHT) -> tuple[float, float]:
    """Return where a point lies in the picture; points beyond the vertical axis lie on its end."""
    low, high = panel.y_range
    y = min(max(y, low), high)
    share = (math.log(y / low) / math.log(high / low)) if panel.logarithmic else (y - low) / (high - low)
    first, last = panel.x_ticks[0], panel.x_ticks[-1]
    if panel.logarithmic_x:
        x, first, last = math.log(x), math.log(first), math.log(last)
    return offset + LEFT + WIDTH * (x - first) / (last - first), TOP + height * (1 - share)


def draw(panel: Panel, offset: float, height: int = HEIGHT) -> list[str]:
    """Return the elements of one panel whose area is `height` high, shifted to the right by `offset`."""
    parts = []
    left, bottom = offset + LEFT, TOP + height
    for tick in panel.y_ticks:
        _, y = place(panel, offset, panel.x_ticks[0], tick, height)
        parts.append(f'<line x1="{left:.1f}" y1="{y:.1f}" x2="{left + WIDTH:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in panel.x_ticks:
        x, _ = place(panel, offset, tick, panel.y_range[1], height)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    for line in panel.lines:
        points = [place(panel, offset, *point, height) for point in line.points]
        if line.dots:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{line.colour}"/>' for x, y in points]
        else:
            dash = ' stroke-dasharray="5 4"' if line.dashed else ""
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>')
    taken = -math.inf
    for line in sorted(panel.lines, key=lambda line: -line.points[-1][1]):  # from the top; names keep a line's height
        if line.name:
            x, y = place(panel, offset, *line.points[-1], height)
            taken = max(y + 4, taken + 13)
            parts.append(f'<text x="{x + 8:.1f}" y="{taken:.1f}" fill="{line.colour}">{line.name}</text>')
    middle = left + WIDTH / 2
    parts.append(f'<text x="{middle:.1f}" y="{bottom + 38}" text-anchor="middle">{panel.x}</text>')
    parts.append(f'<text x="{left:.1f}" y="{TOP - 12}">{panel.title}</text>')
    return parts


def svg(panels: Sequence[Panel], across: int | None = None, height: int = HEIGHT) -> str:
    """Return a picture of the panels.

    Args:
        panels: the panels, all as wide as the widest.
        across: the number of panels side by side; None is all of them.
        height: the height of the area of every panel.
    """
    across = min(across or len(panels), len(panels))
    width, tall = LEFT + WIDTH + max(panel.right for panel in panels), TOP + height + BOTTOM
    size = width * across, tall * -(-len(panels) // across)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{size[0]}" height="{size[1]}" fill="white"/>',
    ]
    for i, panel in enumerate(panels):
        row, column = divmod(i, across)
        drawn = draw(panel, column * width, height)
        parts += [f'<g transform="translate(0 {row * tall})">', *drawn, "</g>"] if row else drawn
    return "\n".join([*parts, "</svg>", ""])
