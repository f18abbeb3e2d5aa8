"""Plotly figures in the suite's style: one colour per modality everywhere, colour-blind safe, axes with units."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from suite.report.data import Run
from suite.report.frames import AXES, Axis, Band, Configuration, band

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
INK, GREY, GRID = "#1a1a1a", "#6b7280", "#e8eaed"
# Okabe & Ito (2008), without yellow (illegible on white), continued with Tol's muted olive, wine and indigo.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933", "#882255", "#332288")
NAMED = {"audio": PALETTE[0], "visual": PALETTE[1], "text": PALETTE[2], "fusion": INK, "fused": INK}
# What an encoder did at a step: colour and meaning; an update with age > 0 is a `delayed` one.
ACTIONS = {
    "update": (PALETTE[0], "fresh update"),
    "delayed": (PALETTE[4], "delayed update"),
    "soft": (PALETTE[5], "scaled-down update"),
    "accumulate": (PALETTE[2], "accumulated update"),
    "hold": ("#e3e5e8", "holds still"),
    "veto": (INK, "vetoed by the gate"),
    "missing": (PALETTE[3], "modality missing"),
}
Dash = Literal["solid", "dot", "dash", "dashdot"]


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


def style(figure: go.Figure, height: int = 300, **axes: Any) -> go.Figure:
    """The common look. `axes`: x, y titles; xtype/ytype; xrange/yrange; legend (bool)."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 56, "r": 12, "t": 12, "b": 44},
        font={"family": FONT, "size": 12, "color": INK},
        hovermode="closest",
        showlegend=bool(axes.get("legend", False)),
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 11}},
        paper_bgcolor="white",
        plot_bgcolor="white",
        hoverlabel={"font": {"family": FONT, "size": 12}},
    )
    for axis, update in (("x", figure.update_xaxes), ("y", figure.update_yaxes)):
        update(
            gridcolor=GRID,
            zeroline=False,
            linecolor="#c4c8ce",
            showline=True,
            ticks="outside",
            ticklen=3,
            automargin=True,
        )
        given = {"title_text": axes.get(axis), "type": axes.get(axis + "type"), "range": axes.get(axis + "range")}
        update(title_font_size=12, **{k: v for k, v in given.items() if v is not None})
    if axes.get("ytype") == "log":
        share_ranges([figure], log=True)
    return figure


def _f(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def rgba(colour: str, alpha: float) -> str:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"


def add_band(figure: go.Figure, curve: Band, line: Line, scale: float = 1.0, **place: int) -> None:
    """Mean over seeds as a line, smallest to largest seed as a band behind it."""
    x = _f(curve.x)
    if curve.seeds > 1:
        common = {
            "x": x,
            "mode": "lines",
            "line": {"width": 0, "shape": line.shape},
            "hoverinfo": "skip",
            "showlegend": False,
        }
        figure.add_scatter(y=_f(curve.low * scale), legendgroup=line.title, **common, **place)
        fill = {"fill": "tonexty", "fillcolor": rgba(line.colour, 0.14), "legendgroup": line.title}
        figure.add_scatter(y=_f(curve.high * scale), **fill, **common, **place)
    figure.add_scatter(
        x=x,
        y=_f(curve.mean * scale),
        name=html.escape(line.title),
        legendgroup=line.title,
        connectgaps=False,
        mode="lines+markers" if curve.x.size < 3 else "lines",
        marker={"size": 5},
        line={"color": line.colour, "width": 1.8, "dash": line.dash, "shape": line.shape},
        hovertemplate=f"{html.escape(line.title)}<br>%{{x:.5g}}: %{{y:.4g}}<extra></extra>",
        **place,
    )


def curves(
    runs: Sequence[Run],
    lines: Sequence[Line],
    y: str,
    axis: Axis = "epoch",
    scale: float = 1.0,
    limit: int = 1500,
    **axes: Any,
) -> go.Figure | None:
    """One panel: each line over the seeds of a configuration; None where nothing of it was logged."""
    drawn = [(line, b) for line in lines if (b := band(runs, line.name, axis, limit)) is not None]
    if not drawn and axis == "epoch":  # no validation yet, so no epochs: steps are known
        axis = "step"
        drawn = [(line, b) for line in lines if (b := band(runs, line.name, axis, limit)) is not None]
    if not drawn:
        return None
    figure = go.Figure()
    for line, curve in drawn:
        add_band(figure, curve, line, scale)
    return style(figure, x=AXES[axis], y=y, **axes)


def compared(
    configurations: Sequence[Configuration], name: str, y: str, scale: float = 1.0, baseline: str | None = None
) -> go.Figure | None:
    """One curve per configuration with buttons for the axes epochs, steps, encoder updates and training time.

    The palette serves the baseline (black) and the next eight; further configurations start hidden and are one
    legend click away.
    """
    figure, visible = go.Figure(), []
    axes: list[Axis] = [a for a in AXES if any(band(c.curves, name, a) is not None for c in configurations)]
    palette = iter(PALETTE * 10)
    tint = {c.label: INK if c.label == baseline else next(palette) for c in configurations}
    for axis in axes:
        for i, c in enumerate(configurations):
            curve = band(c.curves, name, axis, 400)
            if curve is None:
                continue
            dash: Dash = ("solid", "dot", "dash", "dashdot")[min(i // 9, 3)]
            before = len(figure.data)
            add_band(figure, curve, Line(name, c.label, tint[c.label], dash), scale)
            for trace in figure.data[before:]:
                visible.append((axis, True if i < 9 else "legendonly"))
                trace.visible = visible[-1][1] if axis == axes[0] else False
    if not figure.data:
        return None
    buttons = [
        {
            "label": {"epoch": "epochs", "step": "steps", "updates": "updates", "seconds": "time"}[axis],
            "method": "update",
            "args": [
                {"visible": [show if a == axis else False for a, show in visible]},
                {"xaxis.title.text": AXES[axis]},
            ],
        }
        for axis in axes
    ]
    style(figure, 420, x=AXES[axes[0]], y=y, legend=True)
    figure.update_layout(
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0},
        margin={"t": 44},
        updatemenus=[
            {
                "type": "buttons",
                "direction": "right",
                "buttons": buttons,
                "x": 0,
                "xanchor": "left",
                "y": 1.03,
                "yanchor": "bottom",
                "pad": {"l": 0, "t": 0},
                "font": {"size": 11},
                "bgcolor": "white",
                "bordercolor": "#c4c8ce",
            }
        ]
        if len(buttons) > 1
        else [],
    )
    return figure


def stacked(runs: Sequence[Run], lines: Sequence[Line], y: str, limit: int = 1500) -> go.Figure | None:
    """Shares of a whole, mean over seeds, as stacked areas from 0 to 1 on the epoch (or step) axis."""
    axis: Axis = "epoch"
    drawn = [(line, b) for line in lines if (b := band(runs, line.name, axis, 10**9)) is not None]
    if not drawn:
        axis = "step"
        drawn = [(line, b) for line in lines if (b := band(runs, line.name, axis, 10**9)) is not None]
    if not drawn:
        return None
    figure = go.Figure()
    for line, curve in drawn:
        x, mean = _binned(curve.x, curve.mean, min(limit, 400))
        figure.add_scatter(
            x=_f(x),
            y=_f(mean),
            name=line.title,
            stackgroup="all",
            mode="lines",
            line={"color": line.colour, "width": 0.5},
            fillcolor=rgba(line.colour, 0.45 if line.colour == INK else 0.65),
            hovertemplate=f"{html.escape(line.title)}<br>%{{x:.5g}}: %{{y:.3f}}<extra></extra>",
        )
    return style(figure, x=AXES[axis], y=y, yrange=[0, 1])


def _binned(x: np.ndarray, y: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of equal bins: shares of a bin must still add up, so stacked areas are averaged and not thinned."""
    if x.size <= limit:
        return x, y
    parts = np.array_split(np.arange(x.size), limit)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def share_ranges(figures: Sequence[go.Figure], log: bool = False) -> None:
    """The same y range in every panel of a grid, so that panels can be compared by eye.

    A log axis that would span less than a decade becomes a linear one.
    """
    drawn = [np.asarray(t.y, float).ravel() for f in figures for t in f.data if t.y is not None]
    values = np.concatenate(drawn) if drawn else np.empty(0)
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if values.size == 0:
        return
    low, high = float(values.min()), float(values.max())
    decades = float(np.log10(high / low)) if log else 0.0
    axis: dict[str, Any] = {"type": "linear", "dtick": None, "exponentformat": "power"}
    if decades >= 1:
        low, high = float(np.log10(low)), float(np.log10(high))
        axis |= {"type": "log", "dtick": 1 if decades <= 6 else None}
        if decades < 2:
            axis["dtick"] = "D2"
    pad = 0.04 * (high - low) or 0.5
    for figure in figures:
        figure.update_yaxes(range=[low - pad, high + pad], **axis)


def actions_of(table: pd.DataFrame) -> pd.Series:
    """The action of each timeline row, with delayed updates told apart from fresh ones."""
    return table["action"].mask((table["action"] == "update") & (table["age"] > 0), "delayed")


def raster(run: Run, modalities: list[str], window: int = 120) -> go.Figure | None:
    """What each encoder did at the first steps and, in a long run, at the last ones; details on hover."""
    if run.timeline is None or run.timeline.empty:
        return None
    table = run.timeline.assign(action=actions_of(run.timeline))
    steps = np.sort(table["step"].unique())
    parts = [steps] if steps.size <= window else [steps[: window // 2], steps[-(window // 2) :]]
    seen = [a for a in ACTIONS if a in set(table["action"])]
    scale = [[(i + edge) / len(seen), ACTIONS[a][0]] for i, a in enumerate(seen) for edge in (0, 1)]
    rows = [m for m in modalities if m in set(table["modality"])]
    figure = make_subplots(cols=len(parts), rows=1, shared_yaxes=True, horizontal_spacing=0.03)
    for col, part in enumerate(parts, start=1):
        piece = table[table["step"].between(part[0], part[-1])].set_index(["modality", "step"])
        action, age, factor = (piece[k].unstack("step").reindex(rows) for k in ("action", "age", "scale"))
        codes = action.map(seen.index, na_action="ignore").to_numpy(float)
        figure.add_heatmap(
            z=_f(codes),
            x=action.columns.to_numpy(),
            y=rows,
            colorscale=scale,
            zmin=-0.5,
            zmax=len(seen) - 0.5,
            showscale=False,
            ygap=4,
            text=[[_told(*cell) for cell in zip(action.loc[m], age.loc[m], factor.loc[m])] for m in rows],
            hovertemplate="step %{x} · %{y}<br>%{text}<extra></extra>",
            row=1,
            col=col,
        )
    style(figure, 56 + 26 * len(rows), x="step")
    figure.update_layout(margin={"t": 4, "b": 36})
    figure.update_yaxes(autorange="reversed", showgrid=False, showline=False, ticks="")
    return figure.update_xaxes(showgrid=False, title_standoff=4)


def _told(action: object, age: float, scale: float) -> str:
    if not isinstance(action, str):
        return ""
    return f"{ACTIONS[action][1]}, age {age:g}, scale {scale:.3g}" if age >= 0 else ACTIONS[action][1]


def actions_over_run(run: Run, modality: str, bins: int = 150) -> go.Figure | None:
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
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    for name, (colour, meaning) in ACTIONS.items():
        chosen = action == name
        if chosen.any():
            figure.add_scatter(
                x=_f(x),
                y=_f(np.bincount(place[chosen], minlength=count.size)[full] / count[full]),
                name=meaning,
                stackgroup="actions",
                mode="lines",
                line={"width": 0, "shape": "hvh"},
                fillcolor=rgba(colour, 1.0 if name == "hold" else 0.6),
                secondary_y=False,
                hovertemplate=meaning + ": %{y:.1%}<extra></extra>",
            )
    applied = age >= 0
    if applied.any():
        number = np.bincount(place[applied], minlength=count.size)
        total = np.bincount(place[applied], weights=age[applied].astype(float), minlength=count.size)
        mean = np.where(number > 0, total / np.maximum(number, 1), np.nan)[full]
        figure.add_scatter(
            x=_f(x),
            y=_f(mean),
            name="mean age",
            mode="lines",
            line={"color": INK, "width": 1.8, "shape": "hvh"},
            secondary_y=True,
            hovertemplate="step %{x:.0f}: mean age %{y:.3g} steps<extra></extra>",
        )
    style(figure, 250, x="step", y="share of steps")
    figure.update_layout(margin={"r": 52})
    figure.update_yaxes(range=[0, 1], secondary_y=False)
    top = max(1.0, float(age.max())) * 1.05
    return figure.update_yaxes(
        title_text="mean age (steps)", range=[0, top], showgrid=False, tickmode="auto", nticks=4, secondary_y=True
    )


def legend(entries: Mapping[str, tuple[str, Dash | Literal["fill"]]]) -> str:
    """An HTML legend shared by the panels of a grid: title -> (colour, dash or `fill`)."""
    items = []
    for title, (colour, dash) in entries.items():
        if dash == "fill":
            mark = f'<rect x="1" y="2" width="20" height="8" fill="{colour}"/>'
        else:
            pattern = {"solid": "", "dot": "2 3", "dash": "6 3", "dashdot": "6 3 2 3"}[dash]
            mark = f'<path d="M0 6H22" stroke="{colour}" stroke-width="2.4" stroke-dasharray="{pattern}"/>'
        items.append(
            f'<span><svg width="22" height="12" aria-hidden="true">{mark}</svg>{html.escape(title)}</span>'
        )
    return f'<div class="legend">{"".join(items)}</div>'
