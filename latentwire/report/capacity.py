"""F1 over what a method costs: compression, positions of the reader, and bytes down to the entropy of the facts."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from latentwire.report.evaluation_tables import ENDS
from latentwire.report.stored import evaluated, f1_of, methods_of, plain, ratio_of
from suite.report import figures as fig
from suite.report.figures import INK, PALETTE
from suite.report.frames import RunFrames
from suite.report.sections import Item
from suite.report.tables import PERCENT

SIZES = ("ratio=", "slots=", "d_z=", "bits=", "levels=", "stages=")  # what a capacity sweep varies


def capacity(frames: RunFrames) -> list[Item]:
    """Draw F1 over compression, over positions, and over bytes down to the entropy of the facts: all rows."""
    points = _points(frames)
    if not points:
        return []
    names = list(dict.fromkeys(p["name"] for p in points))
    wires = [n for n in names if any(p["name"] == n and p["kind"] == "wire" for p in points)]
    tint = {n: c for n, c in zip(wires, PALETTE, strict=False)}
    rest = [n for n in names if n not in tint]
    free = [c for c in PALETTE if c not in tint.values()] or list(PALETTE)
    tint |= {n: INK if n.partition("/")[0] == "text" else free[i % len(free)] for i, n in enumerate(rest)}
    caption = (
        "Each point is a configuration, or one length to which its messages are cut: the mean over seeds with its 95 % "
        "interval. Click a name to hide or show it. Text is placed where all of it is read."
    )
    figures = [
        _curve(points, tint, "ratio", "tokens per latent", {}),
        _curve(points, tint, "positions", "positions before the question", {}),
        _curve(points, tint, "bytes", "bytes per text", _limits(frames)),
    ]
    return [
        Item("F1 over compression", figures[0], caption),
        Item(
            "F1 over positions",
            figures[1],
            "What a reader spends on the context before every question. Methods that spend none are left out.",
        ),
        Item(
            "F1 over bytes",
            figures[2],
            "Rate and distortion. Dashed: the entropy of the facts, below which no code can hold them all; dotted: the "
            "text as UTF-8 and as packed token ids. Messages and coded texts with header and checksum; other text as "
            "packed ids of what is read. Methods that send nothing are left out.",
        ),
    ]


def _points(frames: RunFrames) -> list[dict[str, Any]]:
    points = []
    for c in frames.configurations:
        runs = evaluated(c)
        for key, m in methods_of(runs[0]).items() if runs else ():
            if m["kind"] == "control":
                continue
            f1 = f1_of(runs, key)
            if f1 is None:
                continue
            known = [methods_of(r)[key] for r in runs if key in methods_of(r)]
            ratio = 1.0 if plain(key, m) in ("text", "replay", "replay_raw") else ratio_of(runs[0], m)
            points.append(
                {
                    "name": _named(key, m, c.label, methods_of(runs[0])),
                    "kind": m["kind"],
                    "label": c.label,
                    "f1": PERCENT * f1.mean,
                    "low": PERCENT * (f1.mean if f1.low is None else f1.low),
                    "high": PERCENT * (f1.mean if f1.high is None else f1.high),
                    "ratio": ratio,
                    "positions": _mean(known, "positions"),
                    "bytes": _mean(known, "bytes"),
                }
            )
    return points


def _mean(methods: list[dict[str, Any]], key: str) -> float | None:
    """Return the mean of a number over runs; None where a method has none, or 0, which no logarithm shows."""
    values = [float(m[key]) for m in methods if m.get(key)]
    return float(np.mean(values)) if values else None


def _named(key: str, method: Mapping[str, Any], label: str, methods: Mapping[str, Any]) -> str:
    """Name the curve of a row: of a baseline its own, of a wire with prefixes one for it alone, else `_series`."""
    name = str(method.get("prefix_of") or key)
    if method["kind"] == "baseline":
        return name
    cut = any(m.get("prefix_of") == name for m in methods.values())
    return f"{name} {label}" if cut else _series(name, label)


def _series(name: str, label: str) -> str:
    """Name a curve: the configuration without what runs along the axis."""
    rest = [part for part in label.split() if not part.startswith(SIZES)]
    return " ".join([name, *rest]) if "=" in " ".join(rest) else name


def _curve(
    points: list[dict[str, Any]], tint: Mapping[str, str], x: str, title: str, limits: Mapping[str, tuple[float, str]]
) -> fig.Figure:
    traces = []
    for name, colour in tint.items():
        mine = sorted((p for p in points if p["name"] == name and p[x]), key=lambda p: p[x])
        if not mine:
            continue
        joined = len({p[x] for p in mine}) == len(mine) > 1
        is_wire = mine[0]["kind"] == "wire"
        end = name.partition("/")[0] in ENDS
        traces.append(
            fig.trace_of(
                np.array([p[x] for p in mine], float),
                np.array([p["f1"] for p in mine], float),
                name,
                mode="lines+markers" if joined else "markers",
                line={"color": colour, "width": 2 if is_wire else 1.2, "dash": "solid" if is_wire else "dot"},
                marker={"color": colour, "size": 8 if is_wire else 5},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [p["high"] - p["f1"] for p in mine],
                    "arrayminus": [p["f1"] - p["low"] for p in mine],
                    "color": colour,
                    "thickness": 1,
                    "width": 2,
                },
                text=[html.escape(p["label"]) for p in mine],
                hovertemplate="%{fullData.name}<br>%{text}<br>%{x:.4g}: %{y:.1f} %<extra></extra>",
                visible=True if is_wire or end or x != "ratio" else "legendonly",
            )
        )
    shapes = [
        {
            "type": "line",
            "x0": at,
            "x1": at,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"dash": dash, "width": 1, "color": INK},
        }
        for at, dash in limits.values()
    ]
    places = [p[x] for p in points if p[x]] + [at for at, _ in limits.values()] or [1.0]
    notes = [
        {
            "x": float(np.log10(at)),
            "y": 1,
            "yref": "paper",
            "text": html.escape(text),
            "showarrow": False,
            "textangle": -90,
            "xanchor": "right",
            "yanchor": "top",
            "font": {"size": 10},
        }
        for text, (at, _) in limits.items()
    ]
    return fig.style(
        traces,
        420,
        xaxis=fig.axis_of(title, **fig.log_ticks(min(places), max(places))),
        yaxis=fig.axis_of("F1 (%)", range=[-3, 103]),
        showlegend=True,
        shapes=shapes,
        annotations=notes,
    )


def _limits(frames: RunFrames) -> dict[str, tuple[float, str]]:
    """Return vertical lines in bytes: entropy, UTF-8, token ids; of every different corpus among the runs."""
    out: dict[str, tuple[float, str]] = {}
    for c in frames.configurations:
        for run in evaluated(c):
            for model, sizes in (run.result.get("sizes") or {}).items():
                for key, text, dash in (
                    ("entropy", "entropy of the facts", "dash"),
                    ("utf8", "text, UTF-8", "dot"),
                    ("token_ids", f"token ids, {model}", "dot"),
                ):
                    if key in sizes and all(abs(sizes[key] - at) > 1e-6 for at, _ in out.values()):
                        out[text if text not in out else f"{text} ({c.label})"] = (sizes[key], dash)
    return out
