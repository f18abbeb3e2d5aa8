"""Sentences that say what was found, each with its sign: the same in a page and in a terminal."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Group
from rich.text import Text

Kind = Literal["better", "worse", "same", "open", "passed", "failed", "note"]
# Of every kind of statement its sign, and whether it is coloured as good, as bad or not.
MARKS: dict[Kind, tuple[str, Literal["good", "bad", ""]]] = {
    "better": ("▲", "good"),
    "worse": ("▼", "bad"),
    "same": ("=", ""),
    "open": ("○", ""),
    "passed": ("✓", "good"),
    "failed": ("✗", "bad"),
    "note": ("·", ""),
}


@dataclass(frozen=True)
class Statement:
    """One sentence of a verdict, and what kind of finding it is."""

    text: str
    kind: Kind = "note"


def spoken(statements: Sequence[Statement]) -> Group:
    """Render for rich: every sentence behind its sign."""
    looks = {"good": "green", "bad": "bold red", "": ""}
    lines = [Text(f"{MARKS[s.kind][0]} {s.text}", style=looks[MARKS[s.kind][1]]) for s in statements]
    return Group(*lines)


def as_list(statements: Sequence[Statement]) -> str:
    """Render for a page: every sentence behind its sign, in the colour of its kind."""

    def line(s: Statement) -> str:
        mark, look = MARKS[s.kind]
        coloured = f' class="{look}"' if look else ""
        return f"<li><b{coloured}>{mark}</b>{html.escape(s.text)}</li>"

    return f'<ul class="verdict">{"".join(map(line, statements))}</ul>'
