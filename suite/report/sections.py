"""The sections of a report, and what programs build theirs from.

A section is a function `RunFrames -> list[Item]`. It returns no item where its data are absent; the report then says in
one line what was missing.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import yaml

from callbacks.run.history import EVENTS
from suite.report import figures as fig
from suite.report.data import RunRecord
from suite.report.figures import INK, Figure, Line
from suite.report.frames import EPOCHS, STEPS, Configuration, RunFrames
from suite.report.tables import Cell, Column, Table, as_html, boxed, columns, number, texts

if TYPE_CHECKING:
    import plotly.graph_objects as go

Body: TypeAlias = "str | Figure | go.Figure | list[tuple[str, Figure | go.Figure]]"
MAX_EVENTS = 200


@dataclass(frozen=True)
class Item:
    """One piece of a section.

    Attributes:
        title: the heading above it, "" for none.
        body: HTML, a figure, or a grid of figures, each under its own title.
        caption: the text between heading and body.
        wide: whether the figures of a grid stand below each other instead of side by side.
    """

    title: str
    body: Body
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A titled section.

    Attributes:
        title: the section's heading.
        build: the function that makes its items.
        needs: the data without which it does not appear; where that alone would not be true of all runs without it, the
            function that says why it does not.
    """

    title: str
    build: Callable[[RunFrames], list[Item]]
    needs: str | Callable[[RunFrames], str]

    def missing(self, frames: RunFrames) -> str:
        """Say why the section of these runs is not there."""
        return f"no {self.needs}" if isinstance(self.needs, str) else self.needs(frames)


def logged(*prefixes: str) -> Callable[[RunRecord], bool]:
    """Return a test whether a run logged any series whose name starts with one of the prefixes."""
    return lambda run: any(name.startswith(prefixes) for name in run.series)


def seeds_note(configurations: list[Configuration], area: bool = False) -> str:
    """Say what line and band (or area) mean for these configurations."""
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
    draw: Callable[..., Figure | None] = fig.curves,
) -> list[Item]:
    """Draw one panel per configuration with the same lines, one legend, and one y range."""
    shown, sentence = frames.shown(logged(*prefixes))
    limit, areas = 1500 if len(shown) == 1 else 400, draw is fig.stacked
    options = {} if areas else {"scale": scale, "log": log}
    drawn = [(c.label, draw(c.curves, lines, y, limit=limit, **options)) for c in shown]
    panels = [(label, figure) for label, figure in drawn if figure is not None]
    if not panels:
        return []
    if not areas:
        fig.share_ranges([f for _, f in panels], log)
    if told := dots_table(panels if len(panels) > 1 else [("", panels[0][1])]):
        return [Item(title, told, " ".join(filter(None, [note, sentence])))]
    named = {name for c in shown for r in c.curves for name in r.series}
    entries = {line.title: (line.colour, "fill" if areas else line.dash) for line in lines if line.name in named}
    caption = " ".join(filter(None, [note, seeds_note(shown, areas), zeros(shown, lines) if log else "", sentence]))
    return [Item(title, fig.legend(entries), caption), Item("", panels if len(panels) > 1 else panels[0][1])]


def dots_table(panels: Sequence[tuple[str, Figure]]) -> str | None:
    """Return the points of panels that all have too few to be drawn as an HTML table; None where any is to be drawn."""
    found = [(label, figure, fig.few_dots(figure)) for label, figure in panels]
    if any(dots is None for _, _, dots in found) or not any(dots for _, _, dots in found):
        return None
    rows = [
        [*texts(label, dot.name), number_or_text(dot.x), number(dot.y, 4)]
        for label, _, dots in found
        for dot in dots or ()
    ]
    axes = (found[0][1]["layout"].get(axis) or {} for axis in ("xaxis", "yaxis"))
    x, y = ((axis.get("title") or {}).get("text", "") for axis in axes)
    table = Table("", columns("", "curve", numbers=[x, y]), rows, ["Too few points for a figure."])
    if len(found) == 1 and not found[0][0]:
        table = Table("", table.columns[1:], [row[1:] for row in rows], table.notes)
    return as_html(table)


def number_or_text(value: float | str) -> Cell:
    """Show a position on an axis: a number as short as it is, or a category."""
    return Cell(value) if isinstance(value, str) else Cell(f"{value:g}", value)


def zeros(shown: list[Configuration], lines: list[Line]) -> str:
    """Say what a log axis cannot show: how often a series is exactly 0."""
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
    return f"A log axis cannot show values of exactly 0: {', '.join(told)}." if told else ""


def loss(frames: RunFrames) -> list[Item]:
    """Draw training and validation loss."""
    lines = [Line("train/loss", "training", "#6b7280"), Line("val/loss", "validation", INK)]
    return grid(frames, "", ("train/loss", "val/loss"), lines, "loss (nats)", log=True)


def loss_shares(frames: RunFrames, tint: Mapping[str, str], note: str = "") -> list[Item]:
    """Draw the share of each term in the training loss; tint: term -> colour."""
    return grid(frames, "", ("share/",), fig.family("share", tint), "share of the loss", note, draw=fig.stacked)


def one_line(frames: RunFrames, title: str, name: str, y: str, scale: float = 1.0) -> list[Item]:
    """Draw a quantity with one series per run: one figure, one curve per configuration."""
    shown, sentence = frames.shown(lambda run: name in run.series)
    axis = EPOCHS if any(EPOCHS.table(r) is not None for c in shown for r in c.curves) else STEPS
    figure = fig.compared(shown, name, y, scale, frames.baseline, [axis])
    if figure is None:
        return []
    return [Item(title, figure, " ".join(filter(None, [seeds_note(shown), sentence])))]


def cost(frames: RunFrames) -> list[Item]:
    """Draw time and peak memory per step."""
    return [
        *one_line(frames, "Time per step", "time/step_ms", "time per step (ms)"),
        *one_line(frames, "Peak memory", "memory/peak_mb", "peak memory (MB)"),
    ]


def events(frames: RunFrames) -> list[Item]:
    """Count skipped steps, decisions and warnings per configuration, then list them."""
    kept = {
        c.label: tables
        for c in frames.configurations
        if (tables := {r.seed: r.events for r in c.runs if r.events is not None})
    }
    if not kept:
        return []
    kinds = sorted({kind for tables in kept.values() for table in tables.values() for kind in table["kind"]})
    rows = []
    for label, tables in kept.items():
        counts = [sum(int((table["kind"] == kind).sum()) for table in tables.values()) for kind in kinds]
        rows.append([*texts(label, len(tables)), *[Cell(str(n), float(n)) for n in counts]])
    listed = [
        (label, seed, *row)
        for label, tables in kept.items()
        for seed, table in tables.items()
        for row in table.itertuples(index=False)
    ]
    listing = [texts(*row) for row in listed[:MAX_EVENTS]]
    head = [Column(name, name in ("seed", "step", "epoch")) for name in ("configuration", "seed", *EVENTS.columns)]
    more = f" (first {MAX_EVENTS} of {len(listed)}; the rest is in {EVENTS.name})" if len(listed) > MAX_EVENTS else ""
    body = f"<details><summary>{len(listed)} events{more}</summary>{as_html(Table('', head, listing))}</details>"
    counted = Table("", columns("configuration", numbers=["seeds", *kinds]), rows)
    return [Item("Counts over all seeds", as_html(counted)), Item("", body)]


def runs_table(frames: RunFrames, link: Callable[[RunRecord], str | None] = lambda run: None) -> str:
    """List every run with its state and error; `link` gives the address of a run's own report, None without one."""
    rows = []
    for c in frames.configurations:
        for run in c.runs:
            address, error = link(run), str(run.result.get("error") or "").strip()
            name, told = html.escape(run.hash), "<br>".join(html.escape(line) for line in error.splitlines()[:4])
            if address:
                name = f'<a href="{html.escape(address, quote=True)}">{name}</a>'
            if run.traceback:
                told += f"<details><summary>traceback</summary><pre>{html.escape(run.traceback)}</pre></details>"
            status = f'<span class="status {run.status}">{run.status}</span>'
            seconds = number(run.number("seconds"), 1).text
            rows.append([html.escape(c.label), str(run.seed), name, status, seconds, told])
    titles = ("configuration", "seed", "run", "status", "seconds", "error")
    looks = ["num" if title in ("seed", "seconds") else "txt" for title in titles]
    head = "".join(f'<th class="{look}">{title}</th>' for look, title in zip(looks, titles))
    body = ("".join(f'<td class="{look}">{cell}</td>' for look, cell in zip(looks, row)) for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table>"
    return boxed(table, tall=True)


def remarks(frames: RunFrames) -> list[str]:
    """Say what a reader must know about the data: incomplete files, values that are not finite, mixed versions."""
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
    """Show versions and the resolved config of each configuration (of its first seed)."""
    items = []
    versions = _versions(frames)
    if versions:
        rows = [texts(key, ", ".join(sorted(values))) for key, values in sorted(versions.items())]
        items.append(Item("Versions", as_html(Table("", columns("package", "version"), rows))))
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


COMMON = (
    Section("Loss", loss, "train/loss or val/loss in history.csv"),
    Section("Gate decisions and events", events, "rows in events.csv"),
    Section("Time and memory", cost, "time/step_ms or memory/peak_mb in history.csv"),
    Section("Configuration and versions", configuration, "config.yaml or versions in result.json"),
)
