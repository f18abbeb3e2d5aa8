"""Tables as data; terminal, HTML, Markdown and LaTeX show the same text of the same cells."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import rich.table
from rich.console import Group
from rich.text import Text

from suite.statistics import Estimate, mean_interval

ABSENT = "—"
PERCENT = 100.0
FEWEST = 3  # seeds from which on an interval is shown: of two values, it is 12.7 times as wide as they lie apart
BRIEF = 14  # characters of a text that a page does not break
FOLDED = 20  # rows of a table that a terminal shows
INTERVALS = (
    f"±: half of the 95 % t interval over seeds, shown from {FEWEST} seeds on; with fewer, the mean stands alone (the "
    "interval of two values is 12.7 times as wide as they lie apart, and one value has none)."
)


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: the text that is shown.
        value: the number behind it in full precision.
        hint: the tooltip, mostly the values per seed.
        look: whether it is coloured as good or bad; its text says it as well.
    """

    text: str
    value: float | None = None
    hint: str = ""
    look: Literal["", "good", "bad"] = ""


@dataclass(frozen=True)
class Column:
    title: str
    numeric: bool = True


@dataclass
class Table:
    """Rows of cells under columns.

    Attributes:
        title: the heading, "" for none.
        columns, rows: the columns, and the rows with a cell for each of them.
        notes: the footnotes.
        strong: the numbers of the rows that are set off, e.g. the baseline's.
        outside: the numbers of the rows that are none of those compared, e.g. chance.
    """

    title: str
    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    strong: set[int] = field(default_factory=set)
    outside: set[int] = field(default_factory=set)

    def without_constants(self) -> tuple[Table, str]:
        """Leave out the columns that say the same of every row compared, and return what they say in one line.

        The first column stays, and so does every column of a table of one row.
        """
        rows = [row for i, row in enumerate(self.rows) if i not in self.outside]

        def constant(j: int) -> bool:
            beside = (self.rows[i][j].text for i in self.outside)
            return len({row[j].text for row in rows}) == 1 and all(text in (ABSENT, rows[0][j].text) for text in beside)

        if len(rows) < 2:
            return self, ""
        gone = [j for j in range(1, len(self.columns)) if constant(j)]
        if not gone:
            return self, ""
        named = {j: " ".join(self.columns[j].title.split()) for j in gone}
        absent = [name for j, name in named.items() if rows[0][j].text == ABSENT]
        told = [f"{name} {_one_line(rows[0][j].text)}" for j, name in named.items() if rows[0][j].text != ABSENT]
        line = [f"The same in all rows: {'; '.join(told)}."] if told else []
        line += [f"In no row: {'; '.join(absent)}."] if absent else []
        keep = [j for j in range(len(self.columns)) if j not in gone]
        left = replace(self, columns=[self.columns[j] for j in keep], rows=[[r[j] for j in keep] for r in self.rows])
        return left, " ".join(line)

    def without_empty(self) -> Table:
        """Leave out the columns in which every cell is absent (the first column stays)."""
        keep = [j for j in range(len(self.columns)) if j == 0 or any(row[j].text != ABSENT for row in self.rows)]
        rows = [[row[j] for j in keep] for row in self.rows]
        return replace(self, columns=[self.columns[j] for j in keep], rows=rows)


def columns(*words: str, numbers: Sequence[str] = ()) -> list[Column]:
    """Return columns of words, then columns of numbers, by their titles."""
    return [*[Column(title, numeric=False) for title in words], *[Column(title) for title in numbers]]


def texts(*values: object) -> list[Cell]:
    """Return cells that show the values as they are."""
    return [Cell(str(value)) for value in values]


def number(value: float | None, digits: int = 2) -> Cell:
    """Show a single number with fixed digits; absent is a dash, NaN is said."""
    if value is None:
        return Cell(ABSENT)
    return Cell(f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else "not finite", value)


def estimate(values: dict[int, float], scale: float = 1.0, digits: int = 2) -> Cell:
    """Show `mean ± half width` over seeds, of fewer than FEWEST the mean, of none a dash; name seeds not finite."""
    if not values:
        return Cell(ABSENT)
    bad = [seed for seed, v in values.items() if not math.isfinite(v)]
    hint = ", ".join(f"seed {seed}: {v * scale:.{digits + 2}f}" for seed, v in values.items())
    if bad:
        return Cell(f"not finite (seed {', '.join(map(str, bad))})", math.nan, hint)
    got = mean_interval([v * scale for v in values.values()])
    half = "" if got.half_width is None else f" ± {got.half_width:.{digits}f}"
    if got.n < FEWEST:
        hint, half = (f"{hint}; 95 % interval{half}" if half else hint), ""
    return Cell(f"{got.mean:.{digits}f}{half}", got.mean, hint)


def difference(got: Estimate, scale: float = 1.0, digits: int = 2) -> Cell:
    """Show `+1.20 [−0.31, +2.71]`: a difference is never without its interval where one exists, of 2 pairs on hover."""
    text, hint = signed(got.mean * scale, digits), got.note
    if got.low is not None and got.high is not None:
        ends = f"[{signed(got.low * scale, digits)}, {signed(got.high * scale, digits)}]"
        if got.n < FEWEST:
            hint = "; ".join(filter(None, [f"95 % interval {ends} of {got.n} values", hint]))
        else:
            text += f" {ends}"
    return Cell(text, got.mean * scale, hint)


def signed(value: float, digits: int = 2) -> str:
    """Show a number with its sign: a true minus, and 0 without one."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def p_value(p: float | None, why: str = "") -> Cell:
    """Show three significant digits, never `< 0.05` and never stars."""
    return Cell(ABSENT, None, why) if p is None else Cell(f"{p:.3g}", p, why)


def terminal(tables: Sequence[Table], width: int = 120, whole: str = "") -> Group:
    """Render for rich, with footnotes; a table wider than `width` goes on below, its rows named again.

    Args:
        tables: the tables.
        width: the characters of a line.
        whole: where the tables stand whole: the rows beyond FOLDED are left out then, and counted.
    """
    parts: list[rich.table.Table | Text] = []
    looks = {"": "", "good": "green", "bad": "bold red"}
    for given in tables:
        table, constants = given.without_constants()
        shown_rows = table.rows[: FOLDED if whole else None]
        if constants and table.title:
            parts.append(Text(table.title, style="bold"))
        parts += [Text(constants, style="dim")] if constants else []
        for i, block in enumerate(_blocks(table, width)):
            title = None if i or constants else table.title
            shown = rich.table.Table(header_style="bold", title_justify="left", title=title)
            for j in block:
                column = table.columns[j]
                side = "right" if column.numeric else "left"
                shown.add_column(column.title, justify=side, no_wrap=j > 0, overflow="fold")  # type: ignore[arg-type]
            for n, row in enumerate(shown_rows):
                cells = [Text(row[j].text, style=looks[row[j].look]) for j in block]
                shown.add_row(*cells, style="bold" if n in table.strong else "")
            parts.append(shown)
        folded = len(table.rows) - len(shown_rows)
        if folded:
            parts.append(Text(f"  {folded} of {len(table.rows)} rows are folded: all are in {whole}"))
        parts += [Text(f"  {note}", style="dim") for note in table.notes]
    return Group(*parts)


def _blocks(table: Table, width: int) -> list[list[int]]:
    """Return the column numbers of each block.

    A block fits into `width` and starts with what names a row: the text columns at the left as far as they leave half
    of the width.
    """

    def natural(j: int) -> int:
        texts = [table.columns[j].title, *[row[j].text for row in table.rows]]
        return max(len(line) for text in texts for line in text.split("\n")) + 3

    names, used = [0], min(natural(0), 40)
    for j in range(1, len(table.columns)):
        if table.columns[j].numeric or used + natural(j) > width // 2:
            break
        names.append(j)
        used += natural(j)
    left = used
    blocks: list[list[int]] = [list(names)]
    for j in range(len(names), len(table.columns)):
        if used + natural(j) > width - 1 and len(blocks[-1]) > len(names):
            blocks.append(list(names))
            used = left
        blocks[-1].append(j)
        used += natural(j)
    return blocks


def as_html(given: Table) -> str:
    """Render a `<table>` in a scrolling box, what all rows share in a line above it; hints are tooltips."""
    table, constants = given.without_constants()
    head = "".join(f'<th class="{_align(c)}">{_multiline(c.title)}</th>' for c in table.columns)
    body = []
    for i, row in enumerate(table.rows):
        cells = []
        for j, (column, cell) in enumerate(zip(table.columns, row)):
            hint = f' title="{html.escape(cell.hint, quote=True)}"' if cell.hint else ""
            text = _multiline(cell.text) if j else _breakable(_multiline(cell.text))
            look = f" {cell.look}" if cell.look else ""
            look += " brief" if j and len(cell.text) <= BRIEF else ""
            cells.append(f'<td class="{_align(column)}{look}"{hint}>{text}</td>')
        body.append(f"<tr{' class=strong' if i in table.strong else ''}>{''.join(cells)}</tr>")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    return (
        (f"<h3>{html.escape(table.title)}</h3>" if table.title else "")
        + (f'<p class="constants">{html.escape(constants)}</p>' if constants else "")
        + boxed(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>")
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def boxed(table: str, tall: bool = False) -> str:
    """Put a `<table>` into a box that scrolls, with the words that it does; `tall` limits its height too."""
    return (
        f'<div class="wide-box"><div class="cue">more columns: scroll →</div>'
        f'<div class="scroll{" tall" if tall else ""}" tabindex="0">{table}</div></div>'
    )


def _align(column: Column) -> str:
    return "num" if column.numeric else "txt"


def _one_line(text: str) -> str:
    return " · ".join(text.split("\n"))


def _multiline(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def _breakable(text: str) -> str:
    """Let a narrow column break names between their parts: after `_`, `/` and `=`, outside of tags."""
    return re.sub(r"([_/=])(?=\w)(?![^<]*>)", r"\1<wbr>", text)


def markdown(tables: Sequence[Table]) -> str:
    """Render GitHub tables with the footnotes as a list."""
    out = []
    for table in tables:
        lines = [f"**{table.title}**", ""] if table.title else []
        lines.append(_markdown_row([c.title for c in table.columns]))
        lines.append("|" + "|".join("---:" if c.numeric else ":---" for c in table.columns) + "|")
        for i, row in enumerate(table.rows):
            texts = [cell.text for cell in row]
            lines.append(_markdown_row([f"**{t}**" for t in texts] if i in table.strong else texts))
        lines += ["", *[f"- {note}" for note in table.notes]] if table.notes else []
        out.append("\n".join(lines))
    return "\n\n".join(out) + "\n"


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(t.replace("|", "\\|").replace("\n", "<br>") for t in texts) + " |"


def latex(tables: Sequence[Table]) -> str:
    """Render `tabular` environments with booktabs rules, the footnotes as a paragraph below each."""
    out = []
    for table in tables:
        spec = "".join("r" if c.numeric else "l" for c in table.columns)
        head = _latex_row([c.title for c in table.columns])
        lines = [f"\\begin{{tabular}}{{{spec}}}", "\\toprule", head, "\\midrule"]
        for i, row in enumerate(table.rows):
            lines.append(_latex_row([cell.text for cell in row], "\\textbf{%s}" if i in table.strong else "%s"))
        lines += ["\\bottomrule", "\\end{tabular}"]
        if table.notes:
            lines.append("\\par\\smallskip{\\footnotesize " + " ".join(_latex(note) for note in table.notes) + "}")
        out.append("\n".join(lines))
    return "\n\n".join(out) + "\n"


def _latex_row(texts: Sequence[str], look: str = "%s") -> str:
    return " & ".join(look % _latex(t) for t in texts) + r" \\"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "—": "---", "Δ": r"$\Delta$",
    "×": r"$\times$", "·": r"$\cdot$", "‖": r"$\Vert$", "\n": "; ", "≥": r"$\geq$", "≤": r"$\leq$", "<": r"$<$",
    ">": r"$>$", "…": r"\ldots{}",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(ch, ch) for ch in text)
