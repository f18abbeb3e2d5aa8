"""Plotly figures in the suite's style: one colour per modality everywhere, colour-blind safe, axes with units."""

from __future__ import annotations

import base64
import html
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from suite.report.data import Run
from suite.report.frames import AXES, Axis, Band, Configuration, band

if TYPE_CHECKING:
    import plotly.graph_objects as go

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
INK, GRID, LINE = "#1a1a1a", "#e8eaed", "#c4c8ce"
# Okabe & Ito (2008), without yellow (illegible on white), continued with Tol's muted olive, wine and indigo.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933", "#882255", "#332288")
NAMED = {"audio": PALETTE[0], "visual": PALETTE[1], "text": PALETTE[2], "fusion": INK, "fused": INK}
# What an encoder did at a step: colour and meaning; an update with age > 0 is a `delayed` one.
ACTIONS = {
    "update": (PALETTE[0], "fresh update"),
    "delayed": (PALETTE[4], "delayed update"),
    "soft": (PALETTE[5], "scaled-down update"),
    "fusion": (PALETTE[2], "update from the fusion path only"),
    "accumulate": (PALETTE[6], "holds still, accumulates"),
    "hold": ("#e3e5e8", "holds still"),
    "veto": (INK, "vetoed by the gate"),
    "missing": (PALETTE[3], "modality missing"),
}
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
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hoverlabel": {"font": {"family": FONT, "size": 12}},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
}


@dataclass(frozen=True)
class Line:
    """One curve of a panel: history name, what the legend calls it, its colour and dash."""

    name: str
    title: str
    colour: str
    dash: Dash = "solid"
    shape: Literal["linear", "hv"] = "linear"


def colours(names: Iterable[str]) -> dict[str, str]:
    """The colour of each modality or group: fixed for the well-known ones, the rest in order, never repeated
    while any is free."""
    names = list(names)
    out = {name: NAMED[name] for name in names if name in NAMED}
    free = [c for c in PALETTE if c not in out.values()] or list(PALETTE)
    for i, name in enumerate(n for n in names if n not in out):
        out[name] = free[i % len(free)]
    return out


def style(data: list[dict[str, Any]], height: int = 300, **layout: Any) -> Figure:
    """A figure of these traces; `layout` overrides or extends what TEMPLATE sets."""
    return {"data": data, "layout": {"height": height, **layout}}


def axis_of(title: str, **more: Any) -> dict[str, Any]:
    """An axis with its title (and unit)."""
    return {"title": {"text": title}, **more}


def rgba(colour: str, alpha: float) -> str:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"


def trace_of(x: np.ndarray, y: np.ndarray, name: str, **more: Any) -> dict[str, Any]:
    """A line trace."""
    return {"type": "scatter", "x": x, "y": y, "mode": "lines", "name": html.escape(name), **more}


def band_traces(curve: Band, line: Line, scale: float = 1.0) -> list[dict[str, Any]]:
    """Mean over seeds as a line, smallest to largest seed as a band behind it."""
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


def curves_of(runs: Sequence[Run], lines: Sequence[Line], limit: int) -> tuple[Axis, list[tuple[Line, Band]]]:
    """The bands that exist, over epochs, or over steps while no validation has told where epochs end."""
    for axis in ("epoch", "step"):
        drawn = [(line, b) for line in lines if (b := band(runs, line.name, axis, limit)) is not None]
        if drawn:
            return axis, drawn
    return "step", []


def curves(
    runs: Sequence[Run], lines: Sequence[Line], y: str, limit: int = 1500, scale: float = 1.0, log: bool = False
) -> Figure | None:
    """One panel: each line over the seeds of a configuration; None where nothing of it was logged."""
    axis, drawn = curves_of(runs, lines, limit)
    if not drawn:
        return None
    traces = [t for line, curve in drawn for t in band_traces(curve, line, scale)]
    figure = style(traces, xaxis=axis_of(AXES[axis]), yaxis=axis_of(y))
    share_ranges([figure], log)
    return figure


def stacked(runs: Sequence[Run], lines: Sequence[Line], y: str, limit: int = 400) -> Figure | None:
    """Shares of a whole, mean over seeds, as stacked areas from 0 to 1; None where nothing was logged."""
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
    return style(traces, xaxis=axis_of(AXES[axis]), yaxis=axis_of(y, range=[0, 1]))


def _binned(x: np.ndarray, y: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of equal bins: shares of a bin must still add up, so stacked areas are averaged and not thinned."""
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
    axes: Sequence[Axis] = ("epoch", "step", "updates", "seconds"),
) -> Figure | None:
    """One curve per configuration, the baseline in black; buttons switch between those axes that were logged.

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
        trace["visible"] = axis == at[0]
    layout: dict[str, Any] = {"showlegend": not alone}
    drawn = list(dict.fromkeys(at))
    if len(drawn) > 1:
        names = {"epoch": "epochs", "step": "steps", "updates": "updates", "seconds": "time"}
        buttons = [
            {
                "label": names[axis],
                "method": "update",
                "args": [{"visible": [a == axis for a in at]}, {"xaxis.title.text": AXES[axis]}],
            }
            for axis in drawn
        ]
        look = {"font": {"size": 11}, "bgcolor": "white", "bordercolor": LINE, "pad": {"l": 0, "t": 0}}
        place = {
            "type": "buttons",
            "direction": "right",
            "x": 0,
            "xanchor": "left",
            "y": 1.03,
            "yanchor": "bottom",
        }
        layout["updatemenus"] = [{"buttons": buttons, **look, **place}]
        layout["margin"] = {"t": 44}
    height = 300 if alone else 400
    return style(traces, height, xaxis=axis_of(AXES[at[0]]), yaxis=axis_of(y), **layout)


def share_ranges(figures: Sequence[Figure], log: bool = False) -> None:
    """The same y range in every panel of a grid, so that panels can be compared by eye.

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
        low, high = float(np.log10(low)), float(np.log10(high))
        axis = {"type": "log", "dtick": "D2" if decades < 2 else 1 if decades <= 6 else None}
    pad = 0.04 * (high - low) or 0.5
    for figure in figures:
        figure["layout"]["yaxis"] |= {**axis, "range": [low - pad, high + pad]}


def actions_of(table: pd.DataFrame) -> pd.Series:
    """The action of each timeline row, with delayed updates told apart from fresh ones."""
    return table["action"].mask((table["action"] == "update") & (table["age"] > 0), "delayed")


def raster(run: Run, modalities: list[str], window: int = 120) -> Figure | None:
    """What each encoder did at the first steps and, in a long run, at the last ones; details on hover."""
    if run.timeline is None or run.timeline.empty:
        return None
    table = run.timeline.assign(action=actions_of(run.timeline))
    steps = np.sort(table["step"].unique())
    parts = [steps] if steps.size <= window else [steps[: window // 2], steps[-(window // 2) :]]
    seen = [a for a in ACTIONS if a in set(table["action"])]
    scale = [[(i + edge) / len(seen), ACTIONS[a][0]] for i, a in enumerate(seen) for edge in (0, 1)]
    rows = [m for m in modalities if m in set(table["modality"])]
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {}
    for i, part in enumerate(parts):
        piece = table[table["step"].between(part[0], part[-1])].set_index(["modality", "step"])
        action, age, factor = (piece[k].unstack("step").reindex(rows) for k in ("action", "age", "scale"))
        told = [[_told(*cell) for cell in zip(action.loc[m], age.loc[m], factor.loc[m])] for m in rows]
        codes = action.map(seen.index, na_action="ignore").to_numpy(float)
        key = "x" if i == 0 else "x2"
        look = {"colorscale": scale, "zmin": -0.5, "zmax": len(seen) - 0.5, "showscale": False, "ygap": 4}
        cells = {"z": codes, "x": action.columns.to_numpy(), "y": rows, "text": told, "xaxis": key}
        hover = {"hovertemplate": "step %{x} · %{y}<br>%{text}<extra></extra>"}
        traces.append({"type": "heatmap", **cells, **look, **hover})
        width = 1 / len(parts)
        domain = [i * width + 0.015 * (i > 0), (i + 1) * width - 0.015 * (i < len(parts) - 1)]
        layout[key.replace("x", "xaxis")] = axis_of("step", domain=domain, showgrid=False, anchor="y")
    layout["yaxis"] = {"autorange": "reversed", "showgrid": False, "showline": False, "ticks": ""}
    return style(traces, 56 + 26 * len(rows), margin={"t": 4, "b": 36}, **layout)


def _told(action: object, age: float, scale: float) -> str:
    if not isinstance(action, str):
        return ""
    return f"{ACTIONS[action][1]}, age {age:g}, scale {scale:.3g}" if age >= 0 else ACTIONS[action][1]


def actions_over_run(run: Run, modality: str, bins: int = 150) -> Figure | None:
    """Share of each action per bin of steps (areas), mean age of the applied gradient (line, right axis)."""
    if run.timeline is None:
        return None
    table = run.timeline[run.timeline["modality"] == modality]
    if table.empty:
        return None
    steps, age, action = table["step"].to_numpy(), table["age"].to_numpy(), actions_of(table).to_numpy()
    edges = np.linspace(steps.min(), steps.max() + 1, min(bins, max(2, steps.size // 20 + 1)) + 1)
    place = np.clip(np.searchsorted(edges, steps, side="right") - 1, 0, edges.size - 2)
    count = np.bincount(place, minlength=edges.size - 1)
    full = count > 0
    x = ((edges[:-1] + edges[1:]) / 2)[full]
    traces = []
    for name, (colour, meaning) in ACTIONS.items():
        chosen = action == name
        if chosen.any():
            share = np.bincount(place[chosen], minlength=count.size)[full] / count[full]
            look = {
                "line": {"width": 0, "shape": "hvh"},
                "fillcolor": rgba(colour, 1.0 if name == "hold" else 0.6),
            }
            told = meaning + ": %{y:.1%}<extra></extra>"
            traces.append(trace_of(x, share, meaning, stackgroup="actions", hovertemplate=told, **look))
    applied = age >= 0
    number = np.bincount(place[applied], minlength=count.size)
    total = np.bincount(place[applied], weights=age[applied].astype(float), minlength=count.size)
    mean = np.where(number > 0, total / np.maximum(number, 1), np.nan)[full]
    look = {"line": {"color": INK, "width": 1.8, "shape": "hvh"}, "yaxis": "y2"}
    told = "step %{x:.0f}: mean age %{y:.3g} steps<extra></extra>"
    traces.append(trace_of(x, mean, "mean age", hovertemplate=told, **look))
    top = max(1.0, float(age.max())) * 1.05
    right = {
        "overlaying": "y",
        "side": "right",
        "range": [0, top],
        "showgrid": False,
        "tickmode": "auto",
        "nticks": 4,
    }
    return style(
        traces,
        250,
        margin={"r": 52},
        xaxis=axis_of("step"),
        yaxis=axis_of("share of steps", range=[0, 1]),
        yaxis2=axis_of("mean age (steps)", **right),
    )


def as_json(figure: Figure | go.Figure) -> str:
    """The figure as JSON that may stand inside a script tag; arrays as base64 of float32 for plotly.js."""
    if not isinstance(figure, dict):
        return str(figure.to_json()).replace("<", "\\u003c")
    return json.dumps(figure, default=_encode, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _encode(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} in a figure")
    short = np.ascontiguousarray(value, dtype="<i4" if value.dtype.kind in "iu" else "<f4")
    out = {"dtype": short.dtype.str[1:], "bdata": base64.b64encode(short.tobytes()).decode()}
    return out if value.ndim == 1 else {**out, "shape": ", ".join(map(str, value.shape))}


def legend(entries: Mapping[str, tuple[str, Dash | Literal["fill"]]]) -> str:
    """An HTML legend shared by the panels of a grid: title -> (colour, dash or `fill`)."""
    items = []
    for title, (colour, dash) in entries.items():
        if dash == "fill":
            mark = f'<rect x="1" y="2" width="20" height="8" fill="{colour}"/>'
        else:
            pattern = {"solid": "", "dot": "2 3", "dash": "6 3", "dashdot": "6 3 2 3"}[dash]
            mark = f'<path d="M0 6H22" stroke="{colour}" stroke-width="2.4" stroke-dasharray="{pattern}"/>'
        items.append(f'<span><svg width="22" height="12" aria-hidden="true">{mark}</svg>{html.escape(title)}</span>')
    return f'<div class="legend">{"".join(items)}</div>'
