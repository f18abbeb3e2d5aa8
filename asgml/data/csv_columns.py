"""The modalities of a CSV file: which columns make one, and what kind it is, found from the cells."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from asgml.data.csv_rows import CsvRows, is_number
from asgml.data.media import IMAGE_SUFFIXES
from callbacks.errors import UserError

Content = Literal["audio", "image", "frames", "npy", "numbers", "text"]
CONTENTS: tuple[str, ...] = get_args(Content)
FILES: tuple[Content, ...] = ("audio", "image", "frames", "npy")
SOUND_SUFFIXES = (".wav", ".flac", ".ogg")
WORDS = {
    "audio": "sound files",
    "image": "pictures",
    "frames": "folders of frames",
    "npy": "npy files",
    "numbers": "numbers",
    "text": "texts",
}
_PATH = "path"  # a cell that looks like a path and leads nowhere that is known
_PATH_LIKE = re.compile(r"\S*[/\\]\S*|\S+\.[A-Za-z][A-Za-z0-9]{1,4}")
_NUMBERED = re.compile(r"(.+?)[_.\- ]?\d+")
_LONGEST = 4096  # characters of a path


@dataclass(frozen=True)
class Column:
    """One modality of a CSV file.

    Attributes:
        name: the modality.
        content: what its cells hold.
        names: its columns; several for numbers alone.
        cells: the cells of its first column.
        present: whether each row has it, (n,) bool: its cells are not empty.
        numbers: the numbers, (n, columns) float64, 0 in absent rows; None unless `content` is numbers.
    """

    name: str
    content: Content
    names: tuple[str, ...]
    cells: list[str]
    present: np.ndarray
    numbers: np.ndarray | None = None

    @property
    def told(self) -> str:
        """What it is read from, in words."""
        of = f"column {self.names[0]}" if len(self.names) == 1 else f"columns {self.names[0]} to {self.names[-1]}"
        return f"{WORDS[self.content]} ({of})"


def read_columns(
    rows: CsvRows, roles: Collection[str], kinds: Mapping[str, str], chosen: Sequence[str] | None
) -> list[Column]:
    """Return the modalities, in the order of their columns.

    Numeric columns whose names share what stands before a number (`audio_0`, `audio_1`; `f1`, `f2`) or before the last
    underscore (`sensor_x`, `sensor_y`) are one modality of that name.

    Args:
        rows: the file.
        roles: the columns that are no modality: label, split, group and id.
        kinds: the content of a column, where it is not to be found from the cells.
        chosen: the modalities that are wanted; None wants all.

    Raises:
        UserError: naming file and line: mixed cells, paths that lead nowhere, numbers that are not finite; a name that
            is no column or modality, or one that two modalities would have.
    """
    names = [name for name in rows.cells if name not in roles]
    if not names:
        remedy = "add a column per modality: paths of files, numbers or texts"
        raise UserError(str(rows.path), f"columns {', '.join(rows.cells)}", "at least one more", remedy)
    contents = {n: _declared(n, kinds[n]) if n in kinds else _content(rows, n) for n in names}
    found = [_column(rows, m, contents[c[0]], c) for m, c in _modalities(rows, names, contents).items()]
    known = [column.name for column in found]
    for key, asked in (("kinds", kinds), ("modalities", chosen or ())):
        unknown = next((name for name in asked if name not in (*known, *(names if key == "kinds" else ()))), None)
        if unknown is not None:
            example = f"'data.kinds={{{known[0]}:text}}'" if key == "kinds" else f"'data.modalities=[{known[0]}]'"
            raise UserError(f"data.{key}", repr(unknown), f"of {', '.join(known)}", f"set {example}, or leave it out")
    for name, content in kinds.items():
        if name not in names and content != "numbers":
            remedy = f"leave data.kinds.{name} out, or name the single columns"
            raise UserError(f"data.kinds.{name}", content, "numbers: it is several columns", remedy)
    return [column for column in found if chosen is None or column.name in chosen]


def read_known_columns(rows: CsvRows, known: Mapping[str, tuple[str, tuple[str, ...]]]) -> list[Column]:
    """Return the modalities of a file whose columns and contents are known; whole columns may be empty.

    Args:
        rows: the file, which has these columns.
        known: by modality its content and its columns, in their order.

    Raises:
        UserError: naming file and line: numbers that are not finite, or an incomplete vector of them.
    """
    return [_column(rows, m, _declared(m, content), names) for m, (content, names) in known.items()]


def refuse_empty_rows(rows: CsvRows, columns: Sequence[Column]) -> None:
    """Refuse a sample without any modality, naming file and line."""
    alone = np.flatnonzero(~np.any(np.stack([c.present for c in columns]), axis=0))
    if len(alone):
        found = f"no cell of {', '.join(c.name for c in columns)} ({len(alone)} such line(s))"
        remedy = "fill one of these cells, or delete the line"
        raise UserError(rows.where(int(alone[0])), found, "at least one modality in every sample", remedy)


def refuse_absent_files(rows: CsvRows, columns: Sequence[Column]) -> None:
    """Refuse a column of files none of which is there, naming file and line; an empty column names none."""
    root = rows.path.parent
    for column in columns:
        count = int(column.present.sum())
        if column.content not in FILES or not count or any((root / c).exists() for c in column.cells if c):
            continue
        row = int(column.present.argmax())
        raise UserError(
            f"{rows.where(row)}, column {column.name}",
            f"{column.cells[row]}: no such file, nor any other of the {count} {WORDS[column.content]}",
            f"paths relative to {root.absolute()}",
            "correct the paths, or move the table to the folder that they are relative to",
        )


def refuse_other_contents(rows: CsvRows, columns: Sequence[Column]) -> None:
    """Refuse a cell that names a file of another kind than its column holds.

    A folder of frames that is not there is told when it is decoded.

    Raises:
        UserError: naming file and line.
    """
    for column in columns:
        allowed = {column.content, *((_PATH, "text") if column.content == "frames" else ())}
        for row in np.flatnonzero(column.present) if column.content in FILES else ():
            if (found := _content_of(column.cells[row], rows.path.parent)) not in allowed:
                raise UserError(
                    f"{rows.where(int(row))}, column {column.name}",
                    f"{_short(column.cells[row])} ({_word(found)})",
                    f"{WORDS[column.content]}, as the run was trained on; empty where the sample lacks {column.name}",
                    f"correct this cell; set 'data.kinds={{{column.name}:{column.content}}}' if it is such a file",
                )


def _declared(name: str, content: str) -> Content:
    for known in get_args(Content):
        if content == known:
            return known
    expected = f"one of {', '.join(CONTENTS)}"
    raise UserError(f"data.kinds.{name}", repr(content), expected, f"set 'data.kinds={{{name}:text}}'")


def _content_of(cell: str, root: Path) -> str:
    suffix = os.path.splitext(cell)[1].lower()
    if suffix in SOUND_SUFFIXES:
        return "audio"
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix == ".npy":
        return "npy"
    if is_number(cell):
        return "numbers"
    if len(cell) <= _LONGEST and os.path.isdir(root / cell):
        return "frames"
    return _PATH if _PATH_LIKE.fullmatch(cell) else "text"


def _content(rows: CsvRows, name: str) -> Content:
    """Return what the cells of a column are; mixed ones are refused."""
    first: dict[str, int] = {}  # the first row of each content
    for row, cell in enumerate(rows.cells[name]):
        if cell:
            first.setdefault(_content_of(cell, rows.path.parent), row)
    if not first:
        remedy = f"write cells, or delete the column {name}"
        raise UserError(f"{rows.path}, column {name}", "empty in every line", "files, numbers or texts", remedy)
    if set(first) == {"frames", _PATH}:  # folders, some of which are not there: told when they are decoded
        del first[_PATH]
    if set(first) == {"text", _PATH}:
        del first[_PATH]
    if set(first) == {_PATH}:
        row = first[_PATH]
        raise UserError(
            f"{rows.where(row)}, column {name}",
            f"{rows.cells[name][row]!r}, neither a folder that is there nor {', '.join(_suffixes())}",
            f"paths relative to {rows.path.parent}, or texts",
            f"correct the paths; folders of frames hold jpg or png; set 'data.kinds={{{name}:text}}' if they are texts",
        )
    if len(first) > 1:
        cells = rows.cells[name]
        places = [f"line {rows.lines[row]}: {_short(cells[row])} ({_word(c)})" for c, row in first.items()]
        raise UserError(
            f"{rows.where(sorted(first.values())[1])}, column {name}",
            f"mixed cells: {'; '.join(places)}",
            "one kind of cell in a column; empty where the sample lacks the modality",
            f"correct these cells; set 'data.kinds={{{name}:text}}' if all of them are texts",
        )
    return _declared(name, next(iter(first)))


def _suffixes() -> tuple[str, ...]:
    return (*SOUND_SUFFIXES, *IMAGE_SUFFIXES, ".npy")


def _word(content: str) -> str:
    return WORDS.get(content, "a path that leads nowhere")


def _short(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:40] + "…")


def _modalities(rows: CsvRows, names: Sequence[str], contents: Mapping[str, Content]) -> dict[str, tuple[str, ...]]:
    """Return the columns of each modality."""
    prefixes: dict[str, str] = {}
    for name in names:
        if contents[name] == "numbers":
            numbered = _NUMBERED.fullmatch(name)
            prefixes[name] = numbered[1] if numbered else name.rpartition("_")[0] or name
    several = {p for p in prefixes.values() if list(prefixes.values()).count(p) > 1}
    out: dict[str, tuple[str, ...]] = {}
    for name in names:
        modality = prefixes[name] if prefixes.get(name) in several else name
        if modality in several and modality in names:
            found = (
                f"columns {', '.join(n for n in names if modality in (n, prefixes.get(n)))} would all be {modality!r}"
            )
            raise UserError(f"{rows.path}, line 1", found, "a name of its own for every modality", "rename one of them")
        out[modality] = (*out.get(modality, ()), name)
    return out


def _column(rows: CsvRows, modality: str, content: Content, names: tuple[str, ...]) -> Column:
    cells = rows.cells[names[0]]
    filled = np.array([[bool(c) for c in rows.cells[n]] for n in names])
    present: np.ndarray = np.any(filled, axis=0)
    if content != "numbers":
        return Column(modality, content, names, cells, present)
    partly = np.flatnonzero(present & ~filled.all(axis=0))
    if len(partly):
        found = (
            f"{int(filled[:, partly[0]].sum())} of the {len(names)} numbers of {modality} ({len(partly)} such line(s))"
        )
        remedy = f"write them all, or leave all {len(names)} cells empty where the sample lacks {modality}"
        raise UserError(rows.where(int(partly[0])), found, f"{len(names)} numbers, or none", remedy)
    values = np.zeros((len(rows), len(names)), dtype=np.float64)
    for j, name in enumerate(names):
        for row in np.flatnonzero(present):
            cell = rows.cells[name][row]
            value = float(cell) if is_number(cell) else math.nan
            if not math.isfinite(value) or abs(value) > float(np.finfo(np.float32).max):
                expected = "finite numbers within float32; empty cells where the sample lacks the modality"
                raise UserError(f"{rows.where(int(row))}, column {name}", repr(cell), expected, "correct this cell")
            values[row, j] = value
    return Column(modality, content, names, cells, present, values)
