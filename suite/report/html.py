"""The report as an HTML file, its figures drawn when scrolled to by the library that lies beside it."""

from __future__ import annotations

import datetime
import html
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from callbacks.files.atomic import write_text
from suite.report.data import STATUSES, RunRecord, read_run, read_runs
from suite.report.figures import TEMPLATE, Figure, as_json
from suite.report.frames import RunFrames
from suite.report.grouping import group_runs
from suite.report.library import library_name, write_library
from suite.report.registry import report_of
from suite.report.sections import Item, dots_table, remarks, runs_table
from suite.report.statements import as_list
from suite.report.summary import health, state, summary
from suite.report.tables import Table, as_html
from suite.report.verdict import verdict

# Nothing may be fetched but the library beside a page: a browser enforces what the tests check.
STATIC = "default-src 'none'; style-src 'unsafe-inline'"
DRAWN = "default-src 'none'; script-src 'self' file: 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
# Before anything is shown: the reader's choice of light or dark, where the browser lets a page read it.
EARLY = (
    "document.documentElement.classList.add('js');"
    "try{const t=localStorage.getItem('report-theme');if(t)document.documentElement.dataset.theme=t}catch{}"
)
LARGEST = 1_400_000  # characters of a page
FIGURE = '<div class="figure"'

CSS, SCRIPT = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))


def single_report(run_dir: Path, result: Mapping[str, Any] | None = None) -> Path:
    """Write `run_dir/report.html` for one run and return its path.

    Args:
        run_dir: the run's directory.
        result: the numbers of a run that has just finished and whose `result.json` is still to be written.
    """
    run = read_run(run_dir)
    if result is not None:
        run.result = {**run.result, **result, "status": "finished"}
    frames = group_runs([run])
    return write(run_dir / "report.html", frames, f"{frames[0].experiment}, seed {frames[0].runs[0].seed}")


def compare_report(run_dirs: Sequence[Path], out: Path, baseline: str | None = None) -> Path:
    """Write a comparison of many runs to `out`; one chapter per experiment, configurations grouped over seeds."""
    return write(out, group_runs(read_runs(run_dirs), baseline))


def write(out: Path, comparisons: Sequence[RunFrames], title: str | None = None) -> Path:
    """Render the page, write it, with the library beside it where it has figures, and return its path.

    A page of several experiments that would exceed LARGEST keeps their verdicts and tables; the figures of each are
    then on a page of its own beside it, `<name>_<number>_<experiment>.html`.
    """
    page = render(comparisons, title, out.parent)
    if len(comparisons) > 1 and len(page) > LARGEST:
        slugs = [re.sub(r"[^A-Za-z0-9.=-]+", "_", frames.title) for frames in comparisons]
        names = [f"{out.stem}_{i}_{slug}{out.suffix}" for i, slug in enumerate(slugs, 1)]  # titles may be equal
        for name, frames in zip(names, comparisons, strict=True):
            write(out.with_name(name), [frames])
        page = render(comparisons, title, out.parent, names)
    if FIGURE in page:
        write_library(out.parent)
    return write_text(out, page)


def render(
    comparisons: Sequence[RunFrames],
    title: str | None = None,
    folder: Path | None = None,
    pages: Sequence[str] | None = None,
) -> str:
    """Render the whole page.

    Args:
        comparisons: what it shows, a chapter each.
        title: its heading; without one, what is compared, or which run it is.
        folder: where it will lie, for relative links to the reports of single runs.
        pages: the addresses of pages that have the figures of each chapter; without them, the chapters have them.
    """
    names = ", ".join(dict.fromkeys(f.experiment for f in comparisons))
    everything = [run for f in comparisons for run in f.runs]
    one = f"{names}, seed {everything[0].seed}" if len(everything) == 1 else f"Comparison: {names}"
    title = title or one
    chapters, links = [], []
    for i, frames in enumerate(comparisons):
        chapter, targets = _chapter(frames, i, len(comparisons) > 1, folder, pages[i] if pages else None)
        chapters.append(chapter)
        links += targets
    counts = ", ".join(f"{n} {status}" for status in STATUSES if (n := sum(r.status == status for r in everything)))
    programs = ", ".join(dict.fromkeys(f.program for f in comparisons))
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    sub = f"{programs} · {len(everything)} run{'s' if len(everything) != 1 else ''}: {counts} · written {now}"
    nav = "".join(f'<a href="#{anchor}">{html.escape(text)}</a>' for anchor, text in links)
    body = "".join(chapters)
    library = f'<script src="{library_name()}"></script>' if FIGURE in body else ""
    kept = f" Its figures need {library_name()}, in the same folder." if library else ""
    return document(
        title,
        f'<header><h1>{html.escape(title)}</h1><p class="sub">{html.escape(sub)}</p>'
        '<button id="theme" title="light or dark; your choice is kept"></button></header>'
        f"<nav><div>{nav}</div></nav><main>{body}</main>"
        "<footer>This page loads nothing from the network. Table cells show their values per seed on hover."
        f"{kept}</footer>"
        "<noscript><p>The figures need JavaScript; the tables do not.</p></noscript>"
        f'<script type="application/json" id="template">{as_json(TEMPLATE)}</script>'
        f"{library}<script>document.documentElement.dataset.library='{library_name()}';{SCRIPT}</script>",
        DRAWN,
        f"<script>{EARLY}</script>",
    )


def tables_page(tables: Sequence[Table]) -> str:
    """Render tables alone, as a page without scripts."""
    body = "".join(f"<section>{as_html(table)}</section>" for table in tables)
    return document("; ".join(table.title for table in tables), f"<main>{body}</main>", STATIC)


def document(title: str, body: str, policy: str, early: str = "") -> str:
    """Put a page's body into an HTML document that may do what the policy says; `early` stands in its head."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style>{early}</head><body>{body}</body></html>\n"
    )


def _chapter(
    frames: RunFrames, number: int, several: bool, folder: Path | None, page: str | None
) -> tuple[str, list[tuple[str, str]]]:
    prefix = f"c{number}-"
    heading = f"{frames.title}: summary" if several else "Summary"
    links = [(prefix + "summary", heading)]
    parts = [f'<section id="{prefix}summary"><h2>{html.escape(heading)}</h2>']
    said, sick = verdict(frames), health(frames)
    if said:
        parts.append(f"<h3>Verdict</h3>{as_list(said)}")
    parts.append(_health(frames, sick))
    parts += [as_html(table) for table in summary(frames) if sick is None or table.title != sick.title]
    opened = "" if all(run.finished for run in frames.runs) else " open"
    states = "; ".join(f"{c.label}: {state(c)}" for c in frames.configurations if len(c.finished) < len(c.runs))
    heading_of_runs = f"All runs ({states})" if 0 < len(states) < 300 else "All runs"
    parts.append(
        f"<details{opened}><summary>{html.escape(heading_of_runs)}</summary>"
        f"{runs_table(frames, lambda run: _link(run, folder))}</details></section>"
    )
    if page is not None:
        told = f"All figures of {frames.title}"
        return "".join([*parts, f'<p><a href="{html.escape(page, quote=True)}">{html.escape(told)}</a></p>']), links
    absent = []
    for j, section in enumerate(report_of(frames.program).sections):
        items = section.build(frames)
        if not items:
            absent.append(f"<li><b>{html.escape(section.title)}</b>: {html.escape(section.missing(frames))}.</li>")
            continue
        anchor = f"{prefix}s{j}"
        if not several:
            links.append((anchor, section.title))
        body = "".join(_item(item) for item in items)
        parts.append(f'<section id="{anchor}"><h2>{html.escape(section.title)}</h2>{body}</section>')
    if absent:
        among = "" if all(run.finished for run in frames.runs) else "<p>Of the finished runs, where a row has any.</p>"
        parts.append(f'<section><h2>Not shown</h2>{among}<ul class="notes">{"".join(absent)}</ul></section>')
    return "".join(parts), links


def _health(frames: RunFrames, sick: Table | None) -> str:
    """Return the box that says what is wrong with the runs and their files, or that nothing was found."""
    noted = remarks(frames)
    if noted or sick is not None:
        told = f'<ul class="notes">{"".join(f"<li>{html.escape(n)}</li>" for n in noted)}</ul>' if noted else ""
        table = "" if sick is None else as_html(replace(sick, title=""))
        return f'<div class="health"><h3><span class="bad">!</span> Health</h3>{told}{table}</div>'
    looked = "no incomplete file, no logged value that is not finite, the same versions in all runs"
    if report_of(frames.program).health is not None:
        looked += ", and the monitors of the runs found nothing"
    return f'<div class="health fine"><span class="good">✓</span> <b>Health</b>: {looked}.</div>'


def _link(run: RunRecord, folder: Path | None) -> str | None:
    """Return the relative address of a run's own report, None where there is none (or this is it)."""
    own = run.path / "report.html"
    if folder is None or not own.is_file() or folder.resolve() == run.path.resolve():
        return None
    return Path(os.path.relpath(own.resolve(), folder.resolve())).as_posix()


def _item(item: Item) -> str:
    head = f"<h3>{html.escape(item.title)}</h3>" if item.title else ""
    caption = f'<p class="caption">{html.escape(item.caption)}</p>' if item.caption else ""
    if isinstance(item.body, str):
        return head + caption + item.body
    told = dots_table(item.body if isinstance(item.body, list) else [("", item.body)])
    if told is not None:
        return head + caption + told
    if not isinstance(item.body, list):
        return head + caption + _figure(item.body)
    panels = "".join(
        f'<div class="panel"><h4>{html.escape(label)}</h4>{_figure(figure)}</div>' for label, figure in item.body
    )
    return f'{head}{caption}<div class="panels{" wide" if item.wide else ""}">{panels}</div>'


def _figure(figure: Figure | go.Figure) -> str:
    height = int(figure["layout"]["height"] or 300)
    return (
        f'<div class="drawing">{FIGURE} style="height:{height}px"></div>'
        f'<script type="application/json">{as_json(figure)}</script>'
        '<div class="save"><button data-format="svg" title="save this figure as SVG">SVG</button>'
        '<button data-format="png" title="save this figure as PNG">PNG</button></div></div>'
    )
