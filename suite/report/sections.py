"""The sections of a report and the registry that says which program has which.

A section is a function `RunFrames -> list[Item]`. It returns no item where its data are absent; the report then
says in one line what was missing. A program adds its own in a module `<program>.report`, imported by name when
one of its runs is reported:
`SECTIONS["latentwire"] = [Section("Capacity", capacity, "methods.<name>.f1 in result.json"), *COMMON]`.
"""

from __future__ import annotations

import html
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import yaml

from suite.report import figures as fig
from suite.report.data import Run
from suite.report.figures import INK, Figure, Line
from suite.report.frames import Axis, Configuration, RunFrames, axis_table
from suite.report.tables import Cell, Column, Table, as_html, number

if TYPE_CHECKING:
    import plotly.graph_objects as go

Body: TypeAlias = "str | Figure | go.Figure | list[tuple[str, Figure | go.Figure]]"
MAX_EVENTS = 200


@dataclass(frozen=True)
class Item:
    """One piece of a section: `body` is HTML, a figure, or a grid of figures, each under its own title."""

    title: str
    body: Body
    caption: str = ""
    wide: bool = False  # the figures of a grid below each other instead of side by side


@dataclass(frozen=True)
class Section:
    """A titled section; `needs` names the data without which it does not appear."""

    title: str
    build: Callable[[RunFrames], list[Item]]
    needs: str


def extend(program: str) -> None:
    """Imports `<program>.report` where it exists, so that the program's sections and tables are registered."""
    if program not in SECTIONS and importlib.util.find_spec(program) and importlib.util.find_spec(f"{program}.report"):
        importlib.import_module(f"{program}.report")


def section_list(program: str) -> list[Section]:
    """The sections of a program; its module `<program>.report` is imported first, where it exists."""
    extend(program)
    return SECTIONS.get(program, COMMON)


def logged(*prefixes: str) -> Callable[[Run], bool]:
    """Whether a run logged any series whose name starts with one of the prefixes."""
    return lambda run: any(name.startswith(prefixes) for name in run.series)


def seeds_note(configurations: list[Configuration], area: bool = False) -> str:
    """What line and band (or area) mean for these configurations."""
    counts = sorted({len(c.curves) for c in configurations})
    if counts == [1] or not counts:
        return "One seed." if counts else ""
    span = str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return f"Mean over {span} seeds." if area else f"Line: mean over {span} seeds; band: smallest to largest seed."


def grid(
    frames: RunFrames,
    title: str,
    prefixes: tuple[str, ...],
    lines: list[Line],
    y: str,
    note: str = "",
    log: bool = False,
    scale: float = 1.0,
    share: bool = True,
    draw: Callable[..., Figure | None] = fig.curves,
) -> list[Item]:
    """One panel per configuration with the same lines, one legend, and one y range."""
    shown, sentence = frames.shown(logged(*prefixes))
    limit = 1500 if len(shown) == 1 else 400
    panels = []
    for c in shown:
        options = {"scale": scale, "log": log} if draw is fig.curves else {}
        figure = draw(c.curves, lines, y, limit=limit, **options)
        if figure is not None:
            panels.append((c.label, figure))
    if not panels:
        return []
    if share and draw is fig.curves:
        fig.share_ranges([f for _, f in panels], log)
    named = {line.name for line in lines if any(line.name in r.series for c in shown for r in c.curves)}
    entries = {
        line.title: (line.colour, "fill" if draw is fig.stacked else line.dash) for line in lines if line.name in named
    }
    means = seeds_note(shown, area=draw is fig.stacked)
    caption = " ".join(filter(None, [note, means, zeros(shown, lines) if log else "", sentence]))
    return [Item(title, fig.legend(entries), caption), Item("", panels if len(panels) > 1 else panels[0][1])]


def zeros(shown: list[Configuration], lines: list[Line]) -> str:
    """What a log axis cannot show: how often a series is exactly 0."""
    told = []
    for c in shown:
        for line in lines:
            values = [r.series[line.name].value for r in c.curves if line.name in r.series]
            count = sum(int((v == 0).sum()) for v in values)
            if count:
                share = count / sum(v.size for v in values)
                told.append(
                    f"{line.title} in {share:.3g} of its points ({c.label})".replace("in 1 of its", "in all of its")
                )
    return f"Exactly 0, hence not on a log axis: {', '.join(told)}." if told else ""


def loss(frames: RunFrames) -> list[Item]:
    """Training and validation loss."""
    lines = [Line("train/loss", "training", "#6b7280"), Line("val/loss", "validation", INK)]
    return grid(frames, "", ("train/loss", "val/loss"), lines, "loss (nats)", log=True)


def one_line(frames: RunFrames, title: str, name: str, y: str, scale: float = 1.0) -> list[Item]:
    """A quantity with one series per run: one figure, one curve per configuration."""
    shown, sentence = frames.shown(lambda run: name in run.series)
    axis: Axis = "epoch" if any(axis_table(r, "epoch") is not None for c in shown for r in c.curves) else "step"
    figure = fig.compared(shown, name, y, scale, frames.baseline, [axis])
    if figure is None:
        return []
    return [Item(title, figure, " ".join(filter(None, [seeds_note(shown), sentence])))]


def cost(frames: RunFrames) -> list[Item]:
    """Time and peak memory per step."""
    return [
        *one_line(frames, "Time per step", "time/step_ms", "time per step (ms)"),
        *one_line(frames, "Peak memory", "memory/peak_mb", "peak memory (MB)"),
    ]


def events(frames: RunFrames) -> list[Item]:
    """Gate decisions, schedule decisions and warnings: counted per configuration, then listed."""
    having = [c for c in frames.configurations if any(r.events is not None for r in c.runs)]
    if not having:
        return []
    kinds = sorted({kind for c in having for r in c.runs if r.events is not None for kind in r.events["kind"]})
    rows, listed = [], []
    for c in having:
        tables = [r.events for r in c.runs if r.events is not None]
        rows.append(
            [Cell(c.label), Cell(str(len(tables)))]
            + [
                Cell(str(n) if (n := sum(int((t["kind"] == kind).sum()) for t in tables)) else "0", float(n))
                for kind in kinds
            ]
        )
        for run in c.runs:
            if run.events is not None:
                listed += [(c.label, run.seed, *row) for row in run.events.itertuples(index=False)]
    columns = [Column("configuration", numeric=False), Column("seeds"), *[Column(k) for k in kinds]]
    listing = [[Cell(str(v)) for v in row] for row in listed[:MAX_EVENTS]]
    head = [
        Column("configuration", numeric=False),
        Column("seed"),
        Column("step"),
        Column("epoch"),
        Column("kind", numeric=False),
        Column("detail", numeric=False),
    ]
    more = f" (first {MAX_EVENTS} of {len(listed)}; the rest is in events.csv)" if len(listed) > MAX_EVENTS else ""
    body = f"<details><summary>{len(listed)} events{more}</summary>{as_html(Table('', head, listing))}</details>"
    return [Item("Counts over all seeds", as_html(Table("", columns, rows))), Item("", body)]


def runs_table(frames: RunFrames, link: Callable[[Run], str | None] = lambda run: None) -> str:
    """Every run with its state and error; `link` gives the address of a run's own report, None without one."""
    rows = []
    for c in frames.configurations:
        for run in c.runs:
            error = str(run.result.get("error") or "").strip()
            row = [
                c.label,
                str(run.seed),
                run.hash,
                run.status,
                "\n".join(error.splitlines()[:4]),
                link(run) or "",
            ]
            rows.append((row, run))
    cells = []
    for (label, seed, key, status, error, address), run in rows:
        name = f'<a href="{html.escape(address, quote=True)}">{html.escape(key)}</a>' if address else html.escape(key)
        more = (
            f"<details><summary>traceback</summary><pre>{html.escape(run.traceback)}</pre></details>"
            if run.traceback
            else ""
        )
        seconds = number(run.number("seconds"), 1).text
        cells.append(
            f'<tr><td class="txt">{html.escape(label)}</td><td class="num">{seed}</td><td class="txt">{name}</td>'
            f'<td class="txt"><span class="status {status}">{status}</span></td><td class="num">{seconds}</td>'
            f'<td class="txt">{html.escape(error).replace(chr(10), "<br>")}{more}</td></tr>'
        )
    head = "".join(
        f'<th class="{k}">{t}</th>'
        for k, t in [
            ("txt", "configuration"),
            ("num", "seed"),
            ("txt", "run"),
            ("txt", "status"),
            ("num", "seconds"),
            ("txt", "error"),
        ]
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(cells)}</tbody></table>"
    return f'<div class="scroll tall">{table}</div>'


def remarks(frames: RunFrames) -> list[str]:
    """What a reader must know about the data: incomplete files, values that are not finite, mixed versions."""
    out = []
    for c in frames.configurations:
        for run in c.runs:
            where = f"{c.label}, seed {run.seed}"
            out += [f"{where}: {note}." for note in dict.fromkeys(run.notes)]
            out += [
                f"{where}: {name} is not finite from step {step}; its curve has a gap there."
                for name, step in run.not_finite()
            ]
    for key, values in _versions(frames).items():
        if len(values) > 1:
            out.append(f"Runs were made with different {key}: {', '.join(sorted(values))}.")
    return out


def _versions(frames: RunFrames) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for run in frames.runs:
        dirty = " with uncommitted changes" if run.result.get("dirty") else ""
        commit = f"{run.result['commit']}{dirty}" if run.result.get("commit") else None
        for key, value in {**(run.result.get("versions") or {}), "commit": commit}.items():
            if value:
                found.setdefault(str(key), set()).add(str(value))
    return found


def configuration(frames: RunFrames) -> list[Item]:
    """Versions and the resolved config of each configuration (of its first seed)."""
    items = []
    versions = _versions(frames)
    if versions:
        rows = [[Cell(key), Cell(", ".join(sorted(values)))] for key, values in sorted(versions.items())]
        items.append(Item("Versions", as_html(Table("", [Column("package", False), Column("version", False)], rows))))
    shown, sentence = frames.shown(lambda run: bool(run.config))
    blocks = []
    for c in shown:
        run = next(r for r in c.curves if r.config)
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True, width=100)
        blocks.append(
            f"<details><summary>{html.escape(c.label)} (seed {run.seed}, {html.escape(run.hash)})</summary>"
            f"<pre>{html.escape(text)}</pre></details>"
        )
    if blocks:
        items.append(Item("Resolved configuration", "".join(blocks), sentence))
    return items


COMMON = [
    Section("Loss", loss, "train/loss or val/loss in history.csv"),
    Section("Gate decisions and events", events, "rows in events.csv"),
    Section("Time and memory", cost, "time/step_ms or memory/peak_mb in history.csv"),
    Section("Configuration and versions", configuration, "config.yaml or versions in result.json"),
]
SECTIONS: dict[str, list[Section]] = {}
