"""What every encoder did at every step: rasters and shares of `timeline.csv`, and the axis of encoder updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from asgml.report.naming import modalities
from callbacks.run.history import ACTIONS
from suite.report import figures as fig
from suite.report.data import RunRecord
from suite.report.figures import INK, PALETTE, Figure
from suite.report.frames import Axis, Points, RunFrames
from suite.report.sections import Item

TINTS = {
    "update": PALETTE[0],
    "delayed": PALETTE[4],
    "soft": PALETTE[5],
    "fusion": PALETTE[2],
    "accumulate": PALETTE[6],
    "hold": "#e3e5e8",
    "veto": INK,
    "missing": PALETTE[3],
}
# Colour and meaning; an update with age > 0 is a delayed one.
AGES = {"update": "fresh update", "delayed": "delayed update"}
SHOWN = {name: (colour, AGES.get(name) or ACTIONS[name].meaning) for name, colour in TINTS.items()}


def _updates(run: RunRecord) -> Points | None:
    if run.timeline is None:
        return None
    full = run.timeline["action"].map(lambda name: ACTIONS[name].counter == "updates")
    per_step = full.groupby(run.timeline["step"]).sum()
    count = max(1, run.timeline["modality"].nunique())
    return per_step.index.to_numpy(float), per_step.cumsum().to_numpy(float) / count


UPDATES = Axis("full encoder updates (mean over encoders)", "updates", _updates)


def actions_of(table: pd.DataFrame) -> pd.Series:
    """Return the action of each timeline row, a delayed update as `delayed`."""
    return table["action"].mask((table["action"] == "update") & (table["age"] > 0), "delayed")


def raster(run: RunRecord, names: list[str], window: int = 120) -> Figure | None:
    """Show what each encoder did at the first steps and, in a long run, at the last ones; details on hover."""
    if run.timeline is None or run.timeline.empty:
        return None
    table = run.timeline.assign(action=actions_of(run.timeline))
    steps = np.sort(table["step"].unique())
    parts = [steps] if steps.size <= window else [steps[: window // 2], steps[-(window // 2) :]]
    seen = [a for a in SHOWN if a in set(table["action"])]
    scale = [[(i + edge) / len(seen), SHOWN[a][0]] for i, a in enumerate(seen) for edge in (0, 1)]
    rows = [m for m in names if m in set(table["modality"])]
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {}
    for i, part in enumerate(parts):
        piece = table[table["step"].between(part[0], part[-1])].set_index(["modality", "step"])
        action, age, factor = (piece[k].unstack("step").reindex(rows) for k in ("action", "age", "scale"))
        told = [
            [_told(*cell) for cell in zip(*row)] for row in zip(*(k.to_numpy().tolist() for k in (action, age, factor)))
        ]
        codes = action.map(seen.index, na_action="ignore").to_numpy(float)
        key = "x" if i == 0 else "x2"
        look = {"colorscale": scale, "zmin": -0.5, "zmax": len(seen) - 0.5, "showscale": False, "ygap": 4}
        cells = {"z": codes, "x": action.columns.to_numpy(), "y": rows, "text": told, "xaxis": key}
        hover = {"hovertemplate": "step %{x} · %{y}<br>%{text}<extra></extra>"}
        traces.append({"type": "heatmap", **cells, **look, **hover})
        width = 1 / len(parts)
        domain = [i * width + 0.015 * (i > 0), (i + 1) * width - 0.015 * (i < len(parts) - 1)]
        layout[key.replace("x", "xaxis")] = fig.axis_of("step", domain=domain, showgrid=False, anchor="y")
    layout["yaxis"] = {"autorange": "reversed", "showgrid": False, "showline": False, "ticks": ""}
    return fig.style(traces, 56 + 26 * len(rows), margin={"t": 4, "b": 36}, **layout)


def _told(action: object, age: float, scale: float) -> str:
    if not isinstance(action, str):
        return ""
    return f"{SHOWN[action][1]}, age {age:g}, scale {scale:.3g}" if age >= 0 else SHOWN[action][1]


def actions_over_run(run: RunRecord, modality: str, bins: int = 150) -> Figure | None:
    """Draw the share of each action per bin of steps (areas) and the mean age of applied gradients (right axis)."""
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
    for name, (colour, meaning) in SHOWN.items():
        chosen = action == name
        if chosen.any():
            share = np.bincount(place[chosen], minlength=count.size)[full] / count[full]
            fill = fig.rgba(colour, 1.0 if name == "hold" else 0.6)
            look = {"line": {"width": 0, "shape": "hvh"}, "fillcolor": fill}
            told = meaning + ": %{y:.1%}<extra></extra>"
            traces.append(fig.trace_of(x, share, meaning, stackgroup="actions", hovertemplate=told, **look))
    applied = age >= 0
    number = np.bincount(place[applied], minlength=count.size)
    total = np.bincount(place[applied], weights=age[applied].astype(float), minlength=count.size)
    mean = np.where(number > 0, total / np.maximum(number, 1), np.nan)[full]
    look = {"line": {"color": INK, "width": 1.8, "shape": "hvh"}, "yaxis": "y2"}
    told = "step %{x:.0f}: mean age %{y:.3g} steps<extra></extra>"
    traces.append(fig.trace_of(x, mean, "mean age", hovertemplate=told, **look))
    top = max(1.0, float(age.max())) * 1.05
    right = {"overlaying": "y", "side": "right", "range": [0, top], "showgrid": False, "tickmode": "auto", "nticks": 4}
    return fig.style(
        traces,
        250,
        margin={"r": 52},
        xaxis=fig.axis_of("step"),
        yaxis=fig.axis_of("share of steps", range=[0, 1]),
        yaxis2=fig.axis_of("mean age (steps)", **right),
    )


def timeline(frames: RunFrames) -> list[Item]:
    """Show what each encoder did: step by step, then over the whole run; one seed per configuration."""
    names = modalities(frames)
    shown, sentence = frames.shown(lambda run: run.timeline is not None)
    picked = [(c, run) for c in shown if (run := next((r for r in c.curves if r.timeline is not None), None))]
    if not picked:
        return []
    seen = {a for _, run in picked if run.timeline is not None for a in actions_of(run.timeline)}
    swatches = fig.legend({meaning: (colour, "fill") for a, (colour, meaning) in SHOWN.items() if a in seen})
    seeds = ", ".join(map(str, sorted({run.seed for _, run in picked})))
    strips = [(c.label, f) for c, run in picked if (f := raster(run, names)) is not None]
    windows = f"One column per step: the first and the last steps of seed {seeds}. Age and scale on hover."
    over, fresh = [], []
    for c, run in picked:
        for m in names:
            name = m if frames.single else f"{c.label} · {m}"
            table = run.timeline[run.timeline["modality"] == m] if run.timeline is not None else None
            if table is not None and set(actions_of(table)) <= {"update", "missing", "veto"}:
                fresh.append(name)
            elif (figure := actions_over_run(run, m)) is not None:
                over.append((name, figure))
    items = [Item("Step by step", swatches, f"{windows} {sentence}".strip()), Item("", strips, wide=True)]
    if over:
        note = "Areas: share of steps per action (left). Black line: mean age of the applied gradients (right)."
        items.append(Item("Over the run", over, note))
    if fresh:
        items.append(Item("", "", f"Only fresh updates, apart from missing and vetoed steps: {', '.join(fresh)}."))
    return items
