"""The two pages: every key (`docs/config.md`) and every public class (`docs/methods_index.md`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from suite.config.reference.catalogue import ANY_NAME, Chapter, Group, Primary
from suite.config.reference.classes import Entry
from suite.config.reference.keys import NODE, Row, shown

CONFIG, CLASSES = "docs/config.md", "docs/methods_index.md"
_NOTE = "<!-- Written by `python -m suite.config.reference`, from docstrings and YAML comments; edit those. -->"
_CHOICE = re.compile(r"^\$\{choose:\$\{hydra:runtime\.choices\.(\w+)\},\{(.*)\},([^{}]*)\}$")

_CONFIG_HEAD = f"""{_NOTE}

# Every key

Of each key: what it takes, its default, and what it means. Where options of a group differ, each default names its
options. `{ANY_NAME}` stands for a name that is free or listed. A key that begins with `+` is not in the files: it is
added (`+key=value`); so is any other parameter of a node's target. `???` must be given. `null` is a value like any
other. A group is chosen by `group=option`, a key set by `key=value`; `--cfg job` prints what a command line amounts to.
How to add an option of your own: [adding.md](adding.md).
"""
_CLASSES_HEAD = f"""{_NOTE}

# Class index

Public names by package; "YAML" is how to choose them. Formulas, limits and deviations from the papers are in the
docstrings, hyper-parameters in [config.md](config.md).
"""


def config_page(chapters: Iterable[Chapter]) -> str:
    """Return the page of every key."""
    parts = [_CONFIG_HEAD]
    for chapter in chapters:
        parts.append(f"\n## {chapter.name}\n" if chapter.primaries else "\n## Groups of every program\n")
        for primary in chapter.primaries:
            parts += [f"\n### `python -m {primary.module}`\n", *_primary(primary)]
        for group in chapter.groups:
            parts += [
                f"\n### {chapter.name}: `{group.name}=`\n",
                *_options(group),
                *_places(group),
                *_rows(group.rows, len(group.options)),
            ]
    return "".join(parts)


def class_page(entries: Iterable[Entry]) -> str:
    """Return the class index."""
    sections: dict[str, list[Entry]] = {}
    for entry in entries:
        sections.setdefault(entry.section, []).append(entry)
    parts = [_CLASSES_HEAD]
    for section, listed in sections.items():
        papers = any(e.paper for e in listed)
        rows = [
            [
                f"[`{e.name}`](../{e.file})" if e.file else "",
                ", ".join(f"`{y}`" for y in e.yaml),
                e.what,
                *([e.paper] if papers else []),
            ]
            for e in listed
        ]
        parts += [f"\n## {section}\n", *_table(["class", "YAML", "what", *(["paper"] if papers else [])], rows)]
    return "".join(parts)


def _primary(primary: Primary) -> Iterator[str]:
    yield f"\n{primary.what}\n"
    if primary.basis:
        yield f"\nAll keys of {', '.join(f'`python -m {b}`' for b in primary.basis)}, and:\n"
    yield from _rows(primary.rows, 0)
    if primary.choices:
        rows = [[f"`{g}`", f"`{shown(option)}`", said.rstrip(".")] for g, (option, said) in primary.choices.items()]
        yield from _table(["group", "default", "what"], rows)


def _options(group: Group) -> Iterator[str]:
    sets = any(o.sets for o in group.options)
    rows = [
        [f"`{o.name}`", o.what.rstrip("."), *([", ".join(f"`{s}`" for s in o.sets)] if sets else [])]
        for o in group.options
    ]
    yield from _table(["option", "what", *(["sets"] if sets else [])], rows)


def _places(group: Group) -> Iterator[str]:
    nodes = sorted({key.rpartition(".")[0] for row in group.rows for key in row.also})
    if nodes:
        yield f"\nThe same keys stand under {', '.join(f'`{node}`' for node in nodes)}.\n"


def _rows(rows: Iterable[Row], options: int) -> Iterator[str]:
    cells = [[f"`{r.key}`", r.type, _default(r, options), r.meaning.rstrip(".")] for r in rows]
    if cells:
        yield from _table(["key", "type", "default", "meaning"], cells)


def _default(row: Row, options: int) -> str:
    """Return the value, with the options that give it unless all of them do or the key itself names them."""
    if row.type == NODE:
        return ""
    values: dict[str, list[str]] = {}
    for option, value in row.values:
        values.setdefault(_value(value), []).append(option)
    given = {option for option, _ in row.values}
    if len(values) == 1 and (len(given) >= options or given & set(row.key.split("."))):
        return next(iter(values))
    return " · ".join(f"{value} ({', '.join(names)})" for value, names in values.items())


def _value(value: Any) -> str:
    if isinstance(value, str) and (choice := _CHOICE.match(value)):
        group, cases, otherwise = choice.groups()
        return f"`{otherwise}`; by `{group}`: `{cases}`"
    return f"`{shown(value)}`" if value != "" else "`''`"


def _table(titles: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "\n| " + " | ".join(titles) + " |\n|" + "---|" * len(titles) + "\n"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("``", "`") for cell in row) + " |\n"
