"""When a wire pays in time: what it costs to send a text as a message, against its prefill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from callbacks.errors import quoted
from callbacks.files.sealed import read_json
from suite.report import figures as fig
from suite.report.data import RunRecord
from suite.report.figures import INK, PALETTE
from suite.report.frames import RunFrames
from suite.report.sections import Item
from suite.report.tables import Cell, Table, as_html, columns, number, texts

FILE = "breakeven.json"
TIMES = ("encode", "send", "inject", "read", "text", "cache", "cached")
NEVER = "never"


def breakeven_table(found: Mapping[str, Any]) -> Table:
    """Show the measured times by length of context, and the reads from which on the wire costs less."""

    def reads(value: int | None) -> Cell:
        return Cell(NEVER if value is None else str(value), value)

    rows = [
        [*texts(r["model"], r["tokens"], r["messages"], r["positions"])]
        + [number(r[key], 2) for key in TIMES]
        + [reads(r["against_text"]), reads(r["against_cache"])]
        + [number(r.get(key), 1) for key in ("code", "decode")]
        for r in found["rows"]
    ]
    head = columns(
        "model",
        numbers=[
            "tokens", "messages", "latents", "encode\nms", "send\nms", "inject\nms", "question behind\nlatents, ms",
            "question and\ntext, ms", "text alone\nms", "question behind\nits cache, ms", "reads until less\nthan text",
            "reads until less\nthan a kept cache", "text coded by\nits reader, ms", "and read\nback, ms",
        ],
    )  # fmt: skip
    note = (
        f"One text and one question at a time on {found['device']} with {found['threads']} threads, medians of "
        f"{found['repeats']} rounds. Encode, send and inject once per text; one read is the forward pass over a "
        "question that ends before the answer's first token. Send: bytes written and read again. Coding a text by its "
        "reader and reading it back: measured once, of short texts."
    )
    return Table("Break-even", head, rows, [note])


def timing(frames: RunFrames) -> list[Item]:
    """Draw the costs over the length of the context, and list the break-even reads."""
    items: list[Item] = []
    for c in frames.configurations:
        run = next((r for r in c.runs if (r.path / FILE).is_file()), None)
        if run is None:
            continue
        found = read(run)
        for model in dict.fromkeys(r["model"] for r in found["rows"]):
            rows = [r for r in found["rows"] if r["model"] == model]
            title = f"{c.label}, seed {run.seed}: {model}"
            caption = "Solid: the wire; dashed: the text read with every question; dotted: the text read once and kept."
            items.append(Item(title, _figure(rows), caption))
        items.append(Item("", as_html(breakeven_table(found))))
    return items


def read(run: RunRecord) -> dict[str, Any]:
    """Return what `latentwire.study breakeven` has measured of a run."""
    path = run.path / FILE
    remedy = f"rm {quoted(path)}, then python -m latentwire.study breakeven {quoted(run.path)}"
    return read_json(path, "what was measured", remedy)


def _figure(rows: list[dict[str, Any]]) -> fig.Figure:
    x = np.array([r["tokens"] for r in rows], float)
    traces = []
    for reads, colour in zip((1, 4, 16), PALETTE, strict=False):
        costs = {
            f"wire, {reads} reads": ("solid", [_once(r) + reads * r["read"] for r in rows]),
            f"text each time, {reads} reads": ("dash", [reads * r["text"] for r in rows]),
            f"text kept, {reads} reads": ("dot", [r["cache"] + reads * r["cached"] for r in rows]),
        }
        for name, (dash, y) in costs.items():
            line = {"color": colour if colour else INK, "dash": dash, "width": 2}
            shown = True if reads != 4 else "legendonly"
            traces.append(fig.trace_of(x, np.array(y), name, mode="lines+markers", line=line, visible=shown))
    costs_of = [float(v) for trace in traces for v in trace["y"] if v > 0]
    return fig.style(
        traces,
        420,
        xaxis=fig.axis_of("tokens of the context", **fig.log_ticks(x.min(), x.max())),
        yaxis=fig.axis_of("milliseconds", **fig.log_ticks(min(costs_of), max(costs_of))),
        showlegend=True,
    )


def _once(row: Mapping[str, Any]) -> float:
    return float(row["encode"] + row["send"] + row["inject"])
