"""Plotly figures in the suite's style: one colour per name everywhere, colour-blind safe, axes with units."""

from __future__ import annotations

import base64
import html
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from suite.report.data import RunRecord
from suite.report.frames import EPOCHS, STEPS, Axis, Band, Configuration, band

if TYPE_CHECKING:
    import plotly.graph_objects as go

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
INK, GRID, LINE = "#1a1a1a", "#e8eaed", "#c4c8ce"
# Okabe & Ito (2008), without yellow (illegible on white), continued with Tol's muted olive, wine and indigo.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933", "#882255", "#332288")
FEW = 3  # points that are told in a table instead
Dash = Literal["solid", "dot", "dash", "dashdot"]
Figure: TypeAlias = dict[str, Any]  # {"data": [...], "layout": {...}} in Plotly's schema; `go.Figure(it)` also takes it
_AXIS = {
    "gridcolor": GRID,
    "zeroline": False,
    "linecolor": LINE,
    "showline": True,
    "ticks": "outside",
    "ticklen": 3,
    "automargin": True,
    "exponentformat": "power",
    "title": {"font": {"size": 12}, "standoff": 6},
}
# The look of every figure, once per page.
TEMPLATE: Figure = {
    "layout": {
        "margin": {"l": 56, "r": 12, "t": 12, "b": 44},
        "font": {"family": FONT, "size": 12, "color": INK},
        "hovermode": "closest",
        "showlegend": False,
        "legend": {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "font": {"size": 11}},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"font": {"family": FONT, "size": 12}},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
}


@dataclass(frozen=True)
class Line:
    """One curve of a panel.

    Attributes:
        name: the name of the series in the history.
        title: the curve's name in the legend.
        colour, dash, shape: its look.
    """

    name: str
    title: str
    colour: str
    dash: Dash = "solid"
    shape: Literal["linear", "hv"] = "linear"


def colours(names: Iterable[str], fixed: Mapping[str, str]) -> dict[str, str]:
    """Return the colour of each name: a fixed one, or the next of the palette, not repeated while any is free."""
    names = list(names)
    free = [c for c in PALETTE if c not in {fixed[n] for n in names if n in fixed}] or list(PALETTE)
    rest = [n for n in names if n not in fixed]
    return {n: fixed[n] if n in fixed else free[rest.index(n) % len(free)] for n in names}


def family(prefix: str, tint: Mapping[str, str], shape: Literal["linear", "hv"] = "linear") -> list[Line]:
    """Return a line for each series `<prefix>/<name>`; tint: name -> colour."""
    return [Line(f"{prefix}/{name}", name, colour, shape=shape) for name, colour in tint.items()]


def style(data: list[dict[str, Any]], height: int = 300, **layout: Any) -> Figure:
    """Return a figure of these traces; `layout` overrides or extends what TEMPLATE sets."""
    return {"data": data, "layout": {"height": height, **layout}}


def axis_of(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with its title (and unit)."""
    return {"title": {"text": title}, **more}


def rgba(colour: str, alpha: float) -> str:
    """Return a colour with its opacity."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"


def trace_of(x: np.ndarray, y: np.ndarray, name: str, **more: Any) -> dict[str, Any]:
    """Return a line trace."""
    return {"type": "scatter", "x": x, "y": y, "mode": "lines", "name": html.escape(name), **more}


def band_traces(curve: Band, line: Line, scale: float = 1.0) -> list[dict[str, Any]]:
    """Draw the mean over seeds as a line, and smallest to largest seed as a band behind it."""
    key, traces = {"legendgroup": html.escape(line.title)}, []
    if curve.seeds > 1:
        edge = {"line": {"width": 0, "shape": line.shape}, "hoverinfo": "skip", "showlegend": False, **key}
        fill = {"fill": "tonexty", "fillcolor": rgba(line.colour, 0.14)}
        traces.append(trace_of(curve.x, curve.low * scale, line.title, **edge))
        traces.append(trace_of(curve.x, curve.high * scale, line.title, **edge, **fill))
    look = {"color": line.colour, "width": 1.8, "dash": line.dash, "shape": line.shape}
    points = {"mode": "lines+markers", "marker": {"size": 5}} if curve.x.size < 3 else {}
    told = f"{html.escape(line.title)}<br>%{{x:.5g}}: %{{y:.4g}}<extra></extra>"
    mean = trace_of(curve.x, curve.mean * scale, line.title, line=look, hovertemplate=told, connectgaps=False, **key)
    return [*traces, mean | points]


def curves_of(runs: Sequence[RunRecord], lines: Sequence[Line], limit: int) -> tuple[Axis, list[tuple[Line, Band]]]:
    """Return the bands that exist, over epochs, or over steps while no validation has told where epochs end."""
    for axis in (EPOCHS, STEPS):
        drawn = [(line, b) for line in lines if (b := band(runs, line.name, axis, limit)) is not None]
        if drawn:
            return axis, drawn
    return STEPS, []


def curves(
    runs: Sequence[RunRecord], lines: Sequence[Line], y: str, limit: int = 1500, scale: float = 1.0, log: bool = False
) -> Figure | None:
    """Draw one panel: each line over the seeds of a configuration; None where nothing of it was logged."""
    axis, drawn = curves_of(runs, lines, limit)
    if not drawn:
        return None
    traces = [t for line, curve in drawn for t in band_traces(curve, line, scale)]
    figure = style(traces, xaxis=axis_of(axis.title), yaxis=axis_of(y))
    share_ranges([figure], log)
    return figure


def stacked(runs: Sequence[RunRecord], lines: Sequence[Line], y: str, limit: int = 400) -> Figure | None:
    """Draw shares of a whole, mean over seeds, as stacked areas from 0 to 1; None where nothing was logged."""
    axis, drawn = curves_of(runs, lines, 10**9)
    if not drawn:
        return None
    traces = []
    for line, curve in drawn:
        x, mean = _binned(curve.x, curve.mean, min(limit, 400))
        fill = {"stackgroup": "all", "fillcolor": rgba(line.colour, 0.45 if line.colour == INK else 0.65)}
        told = f"{html.escape(line.title)}<br>%{{x:.5g}}: %{{y:.3f}}<extra></extra>"
        look = {"color": line.colour, "width": 0.5}
        traces.append(trace_of(x, mean, line.title, line=look, hovertemplate=told, **fill))
    return style(traces, xaxis=axis_of(axis.title), yaxis=axis_of(y, range=[0, 1]))


def _binned(x: np.ndarray, y: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Average equal bins: the shares of a bin must still add up, so stacked areas are not thinned."""
    if x.size <= limit:
        return x, y
    parts = np.array_split(np.arange(x.size), limit)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def compared(
    configurations: Sequence[Configuration],
    name: str,
    y: str,
    scale: float = 1.0,
    baseline: str | None = None,
    axes: Sequence[Axis] = (EPOCHS, STEPS),
) -> Figure | None:
    """Draw one curve per configuration, the baseline in black; buttons switch between those axes that were logged.

    None where nothing was logged.
    """
    free, alone = itertools.cycle(PALETTE), len(configurations) == 1
    tint = {c.label: INK if alone or c.label == baseline else next(free) for c in configurations}
    traces: list[dict[str, Any]] = []
    at: list[Axis] = []  # the axis of each trace
    for axis in axes:
        for c in configurations:
            curve = band(c.curves, name, axis, 400)
            if curve is not None:
                traces += band_traces(curve, Line(name, c.label, tint[c.label]), scale)
                at += [axis] * (len(traces) - len(at))
    if not at:
        return None
    for trace, axis in zip(traces, at):
        trace["visible"] = axis is at[0]
    layout: dict[str, Any] = {"showlegend": not alone}
    drawn = list(dict.fromkeys(at))
    if len(drawn) > 1:
        buttons = [
            {
                "label": axis.short,
                "method": "update",
                "args": [{"visible": [a is axis for a in at]}, {"xaxis.title.text": axis.title}],
            }
            for axis in drawn
        ]
        look = {"font": {"size": 11, "color": INK}, "bgcolor": "#ffffff", "bordercolor": LINE, "pad": {"l": 0, "t": 0}}
        place = {"type": "buttons", "direction": "right", "x": 0, "xanchor": "left", "y": 1.03, "yanchor": "bottom"}
        layout["updatemenus"] = [{"buttons": buttons, **look, **place}]
        layout["margin"] = {"t": 44}
    height = 300 if alone else 400
    return style(traces, height, xaxis=axis_of(at[0].title), yaxis=axis_of(y), **layout)


def matrix(counts: np.ndarray, names: Sequence[str], x: str, y: str) -> Figure:
    """Draw a square matrix of counts (n, n), coloured by the share of its row; x and y title columns and rows."""
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    numbers = list(range(len(names)))  # two names may be equal
    trace = {
        **{"type": "heatmap", "x": numbers, "y": numbers, "z": share, "zmin": 0, "zmax": 1, "xgap": 1, "ygap": 1},
        "text": [[f"{names[i]} → {names[j]}: {counts[i, j]} of {total[i, 0]}" for j in numbers] for i in numbers],
        "hovertemplate": "%{text}<extra></extra>",
        "colorscale": [[0, "#ffffff"], [1, PALETTE[0]]],
        "colorbar": {"thickness": 10, "tickformat": ".0%"},
    }
    ticks = {"tickmode": "array", "tickvals": numbers, "ticktext": list(names), "showgrid": False}
    height = min(640, 130 + 22 * len(names))
    return style([trace], height, xaxis=axis_of(x, **ticks), yaxis=axis_of(y, autorange="reversed", **ticks))


def ratios(z: np.ndarray, columns: Sequence[float], x: str, y: str) -> Figure:
    """Draw ratios (rows, columns) as a map: white where they are 1, blue below, orange above, by powers of two.

    Args:
        z: the ratios; rows are numbered from 1.
        columns: where the columns lie.
        x, y: the titles of the axes.
    """
    power = np.log2(np.maximum(z, 2.0**-20))
    most = max(1, min(6, int(np.ceil(np.nanmax(np.abs(power))))))
    most += most % 2 if most > 3 else 0
    marks = list(range(-most, most + 1, 1 if most <= 3 else 2))
    numbers = [i + 1 for i in range(z.shape[0])]
    trace = {
        **{"type": "heatmap", "x": list(columns), "y": numbers, "z": power, "zmin": -most, "zmax": most},
        "text": [[f"{value:.3g}" for value in row] for row in z],
        "hovertemplate": f"{html.escape(x)} %{{x}}, {html.escape(y)} %{{y}}: × %{{text}}<extra></extra>",
        "colorscale": [[0, PALETTE[0]], [0.5, "#ffffff"], [1, PALETTE[1]]],
        "colorbar": {"thickness": 10, "tickvals": marks, "ticktext": [f"× {2.0**m:.3g}" for m in marks]},
    }
    height = min(640, max(240, 110 + 14 * z.shape[0]))
    whole = {"tickformat": "d"} if len(numbers) > 12 else {"tickmode": "array", "tickvals": numbers}
    at = {"type": "category"} if len(columns) <= 24 else {}
    yaxis = axis_of(y, showgrid=False, autorange="reversed", **whole)
    return style([trace], height, xaxis=axis_of(x, showgrid=False, **at), yaxis=yaxis)


def bars(names: Sequence[str], series: Mapping[str, tuple[Sequence[float], str]], x: str) -> Figure:
    """Draw horizontal bars, the first name on top; series: title -> (length of each bar, colour)."""
    numbers = list(range(len(names)))  # two names may be equal
    traces = [
        {
            **{"type": "bar", "orientation": "h", "x": list(lengths), "y": numbers, "name": html.escape(title)},
            "marker": {"color": colour},
            "text": [html.escape(name) for name in names],
            "textposition": "none",
            "hovertemplate": f"%{{text}}<br>{html.escape(title)}: %{{x:.4g}}<extra></extra>",
        }
        for title, (lengths, colour) in series.items()
    ]
    ticks = {"tickmode": "array", "tickvals": numbers, "ticktext": [html.escape(n) for n in names], "showgrid": False}
    height = 90 + (14 + 10 * len(series)) * len(names)
    yaxis = axis_of("", autorange="reversed", **ticks)
    return style(traces, height, xaxis=axis_of(x), yaxis=yaxis, barmode="group", bargap=0.25)


def share_ranges(figures: Sequence[Figure], log: bool = False) -> None:
    """Give every panel of a grid the same y range, so that panels can be compared by eye.

    A log axis that would span less than a decade becomes a linear one.
    """
    drawn = [np.asarray(t["y"], float) for f in figures for t in f["data"]]
    values = np.concatenate(drawn) if drawn else np.empty(0)
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if values.size == 0:
        return
    low, high = float(values.min()), float(values.max())
    decades = float(np.log10(high / low)) if log else 0.0
    axis: dict[str, Any] = {"type": "linear"}
    if decades >= 1:
        axis = log_ticks(low, high)
        low, high = float(np.log10(low)), float(np.log10(high))
    pad = 0.04 * (high - low) or 0.5
    for figure in figures:
        figure["layout"]["yaxis"] |= {**axis, "range": [low - pad, high + pad]}


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Return a logarithmic axis for values from `low` to `high` > 0, marked at powers of ten or, within few, between.

    Plotly's own marks give the digits between powers another size, and no mark at all to a short axis.
    """
    decades = float(np.log10(high / low))
    digits = (1, 2, 3, 4, 5, 6, 8) if decades < 1 else (1, 2, 5) if decades < 2.5 else (1,)
    step = max(1, int(np.ceil(decades / 7)))
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    marks = [d * 10.0**k for k in powers for d in digits if k % step == 0]
    text = [
        f"{v:g}" if 1e-3 <= v < 1e5 else f"{v / 10.0**k:g}·10<sup>{k}</sup>".removeprefix("1·")
        for v in marks
        for k in [int(np.floor(np.log10(v) + 1e-9))]
    ]
    return {"type": "log", "tickmode": "array", "tickvals": marks, "ticktext": text}


def as_json(figure: Figure | go.Figure) -> str:
    """Encode a figure as JSON that may stand inside a script tag; arrays as base64 of float32 for plotly.js."""
    if not isinstance(figure, dict):
        return str(figure.to_json()).replace("<", "\\u003c")
    return json.dumps(figure, default=_encode, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _encode(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} in a figure")
    short = np.ascontiguousarray(value, dtype="<i4" if value.dtype.kind in "iu" else "<f4")
    out = {"dtype": short.dtype.str[1:], "bdata": base64.b64encode(short.tobytes()).decode()}
    return out if value.ndim == 1 else {**out, "shape": ", ".join(map(str, value.shape))}


@dataclass(frozen=True)
class Dot:
    """One point of a figure: the name of its curve, and where it lies."""

    name: str
    x: float | str
    y: float


def few_dots(figure: Figure | go.Figure) -> list[Dot] | None:
    """Return the points of a figure that has at most FEW of them, which is no picture; None for any other figure.

    Only curves and bars have points to count: a map is drawn in any case. The edges of a band, and the points of an
    axis that a button shows, are none.
    """
    if not isinstance(figure, dict):
        return None
    found = []
    for trace in figure["data"]:
        known = trace.get("type") in ("scatter", "bar") and "x" in trace and "y" in trace
        if not known or trace.get("stackgroup") or trace.get("orientation") == "h":
            return None
        if trace.get("hoverinfo") == "skip" or trace.get("visible") is False:
            continue
        name = html.unescape(trace.get("name") or "")
        points = zip(np.asarray(trace["x"]).tolist(), np.asarray(trace["y"], float).tolist(), strict=True)
        found += [Dot(name, x, y) for x, y in points if np.isfinite(y)]
        if len(found) > FEW:
            return None
    return found


def legend(entries: Mapping[str, tuple[str, Dash | Literal["fill"]]]) -> str:
    """Return the HTML legend that the panels of a grid share: title -> (colour, dash or `fill`)."""
    items = []
    for title, (colour, dash) in entries.items():
        if dash == "fill":
            mark = f'<rect x="1" y="2" width="20" height="8" fill="{colour}"/>'
        else:
            pattern = {"solid": "", "dot": "2 3", "dash": "6 3", "dashdot": "6 3 2 3"}[dash]
            mark = f'<path d="M0 6H22" stroke="{colour}" stroke-width="2.4" stroke-dasharray="{pattern}"/>'
        items.append(f'<span><svg width="22" height="12" aria-hidden="true">{mark}</svg>{html.escape(title)}</span>')
    return f'<div class="legend">{"".join(items)}</div>'
