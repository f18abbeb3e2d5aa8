"""A CSV file as its user wrote it: cells by column, each with its line, and what labels, splits and groups say."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asgml.data.spec import SPLITS
from callbacks.errors import UserError
from callbacks.files.given import read_given

DELIMITERS = ",;\t"
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "0"), 0),
    **dict.fromkeys(("val", "valid", "validation", "dev", "1"), 1),
    **dict.fromkeys(("test", "testing", "2"), 2),
}


@dataclass(frozen=True)
class CsvRows:
    """The rows of a CSV file.

    Attributes:
        path: the file.
        lines: the line at which each row begins.
        cells: the cells of each column, white space around them removed.
    """

    path: Path
    lines: list[int]
    cells: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """Return file and line of a row."""
        return f"{self.path}, line {self.lines[row]}"

    def taken(self, rows: np.ndarray) -> CsvRows:
        """Return some of these rows, by number."""
        cells = {name: [column[row] for row in rows] for name, column in self.cells.items()}
        return CsvRows(self.path, [self.lines[row] for row in rows], cells)

    def column(self, key: str, name: str | None, default: str) -> list[str] | None:
        """Return the cells of the column that has a role: the one that `data.<key>` names, else `default`, else None.

        Raises:
            UserError: there is no column of the name that was given.
        """
        if name is None:
            return self.cells.get(default)
        if name not in self.cells:
            near = difflib.get_close_matches(name, self.cells, 1)
            found, expected = f"no column {name!r} in {self.path}", f"one of {', '.join(self.cells)}"
            raise UserError(
                f"data.{key}", found, expected, f"set data.{key}={near[0] if near else next(iter(self.cells))}"
            )
        return self.cells[name]


def read_csv(path: Path) -> CsvRows:
    """Read a CSV file with a header: UTF-8, separated by comma, semicolon or tab, whichever the header has most of.

    Rows without any cell are passed over.

    Raises:
        UserError: a file that is absent, empty or not text, a header with empty or equal names, a row of another number
            of cells, or a cell without end.
    """
    expected = "a CSV file: a header, then one sample a line"
    text = read_given(path, f"data.path={path}", expected, "set data.path to the path of a .csv file")
    head = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        begins = 1
        for fields in reader:
            if any(f.strip() for f in fields):
                rows.append((begins, [f.strip() for f in fields]))
            begins = reader.line_num + 1
    except csv.Error as error:
        found = f"{error}; the row begins in line {begins}"
        remedy = f"close the quotes of line {begins}, or quote its cells"
        if len(text) > csv.field_size_limit():
            remedy += f"; keep cells below {csv.field_size_limit()} characters"
        raise UserError(f"{path}, line {reader.line_num}", found, expected, remedy) from error
    if len(rows) < 2:
        found = f"{len(rows)} line(s) that are not empty"
        raise UserError(str(path), found, expected, "write one line per sample behind the header")
    (line, names), *samples = rows
    for i, name in enumerate(names):
        if not name or name in names[:i]:
            found = f"column {i + 1} has " + (f"the name {name!r} of another" if name else "no name")
            raise UserError(f"{path}, line {line}", found, "a header of distinct names", "name every column once")
    for line, fields in samples:
        if len(fields) != len(names):
            found = f"{len(fields)} cells: {delimiter.join(fields)[:80]}"
            remedy = f"put cells that hold {delimiter!r} in double quotes, and leave missing cells empty"
            raise UserError(f"{path}, line {line}", found, f"{len(names)}, as the header has", remedy)
    cells = {name: [fields[i] for _, fields in samples] for i, name in enumerate(names)}
    return CsvRows(path, [line for line, _ in samples], cells)


def read_labels(rows: CsvRows, name: str) -> tuple[np.ndarray, list[str]]:
    """Return the labels (n,) int64 and the class names: sorted, as numbers where all are whole numbers.

    Raises:
        UserError: no such column, an empty cell, fractions, or one class only.
    """
    cells = _label_cells(rows, name, f"add a column {name}, or set data.label to the one that is it")
    found = sorted(set(cells))
    if all(c.lstrip("+-").isdecimal() for c in found):
        found = sorted(found, key=lambda c: (int(c), c))
    elif all(is_number(c) for c in found):
        row = next(i for i, c in enumerate(cells) if not c.lstrip("+-").isdecimal())
        remedy = "write whole numbers or names; numbers to be regressed: experiment=features data.path=F.npz"
        raise UserError(rows.where(row), f"label {cells[row]}", "a class, by a whole number or a name", remedy)
    if len(found) < 2:
        found_text, remedy = f"one class only ({found[0]})", "add samples of another class"
        raise UserError(f"{rows.path}, column {name}", found_text, "two or more classes", remedy)
    number = {c: i for i, c in enumerate(found)}
    return np.array([number[c] for c in cells], dtype=np.int64), found


def read_known_labels(rows: CsvRows, name: str, classes: Sequence[str]) -> np.ndarray:
    """Return the labels (n,) int64 as numbers of classes that are known.

    Args:
        rows: the file.
        name: the column of the class.
        classes: the class names; label `i` is `classes[i]`.

    Raises:
        UserError: no such column, an empty cell, or a label without a class.
    """
    cells = _label_cells(rows, name, f"add a column {name}; without labels: python -m asgml.predict")
    number = {c: i for i, c in enumerate(classes)}
    wrong = [i for i, c in enumerate(cells) if c not in number]
    if wrong:
        shown = ", ".join(classes[:12]) + ", …" * (len(classes) > 12)
        raise UserError(
            f"{rows.where(wrong[0])}, column {name}",
            f"label {cells[wrong[0]]!r} ({len(wrong)} label(s) without a class of the run)",
            f"one of the run's {len(classes)} classes: {shown}",
            "write the classes as in training, and leave samples of other classes out",
        )
    return np.array([number[c] for c in cells], dtype=np.int64)


def _label_cells(rows: CsvRows, name: str, remedy: str) -> list[str]:
    if name not in rows.cells:
        near = [c for c in rows.cells if c.lower() == name.lower()] or difflib.get_close_matches(name, rows.cells, 1)
        remedy = f"set data.label={near[0]}" if near else remedy
        raise UserError(f"{rows.path}, data.label", f"no column {name!r}", f"one of {', '.join(rows.cells)}", remedy)
    _refuse_empty(rows, name, rows.cells[name], "the class of every sample", "write its class, or delete the line")
    return rows.cells[name]


def split_words(rows: CsvRows, name: str, cells: Sequence[str]) -> np.ndarray:
    """Return the given split of each row, (n,) of 0, 1, 2, whichever there are.

    Raises:
        UserError: an empty cell, or another word.
    """
    _refuse_empty(rows, name, cells, "train, val or test", "write one of them, or leave the whole column out")
    wrong = [i for i, c in enumerate(cells) if c.lower() not in _SPLIT_NAMES]
    if wrong:
        found = f"{cells[wrong[0]]!r} in column {name} ({len(wrong)} such line(s))"
        remedy = "write one of them, or leave the column out to have the splits cut"
        raise UserError(rows.where(wrong[0]), found, "train, val or test", remedy)
    return np.array([_SPLIT_NAMES[c.lower()] for c in cells], dtype=np.int64)


def read_split(rows: CsvRows, name: str, cells: Sequence[str]) -> np.ndarray:
    """Return the given split of each row, (n,) of 0, 1, 2, to train on.

    Raises:
        UserError: as `split_words`; no training sample, or training samples only.
    """
    split = split_words(rows, name, cells)
    lacking = [i for i in range(3) if not np.any(split == i)]
    if 0 in lacking or len(lacking) == 2:
        found = f"no sample of {' and '.join(SPLITS[i] for i in lacking)}"
        expected = "train and at least one of val and test"
        raise UserError(f"{rows.path}, column {name}", found, expected, "leave the column out to have the splits cut")
    return split


def read_groups(rows: CsvRows, name: str, cells: Sequence[str]) -> np.ndarray:
    """Return the group of each row, (n,) strings.

    Raises:
        UserError: an empty cell.
    """
    remedy = "write its group; a sample that belongs with no other gets a name of its own"
    _refuse_empty(rows, name, cells, "what every sample belongs to (its speaker, its video)", remedy)
    return np.array(cells)


def read_ids(rows: CsvRows) -> list[str]:
    """Return the name of each sample: column `id` where there is one, else its line.

    Raises:
        UserError: an empty cell, or a name that stood before.
    """
    cells = rows.cells.get("id")
    if cells is None:
        return [f"line {line}" for line in rows.lines]
    _refuse_empty(rows, "id", cells, "a name for every sample", "write one, or leave the column out")
    seen: dict[str, int] = {}
    for row, name in enumerate(cells):
        if name in seen:
            found = f"id {name}, already in line {rows.lines[seen[name]]}"
            raise UserError(rows.where(row), found, "every id once", "delete one of the two lines, or the column")
        seen[name] = row
    return list(cells)


def is_number(cell: str) -> bool:
    """Return whether a cell is a number, nan and infinity included."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _refuse_empty(rows: CsvRows, name: str, cells: Sequence[str], expected: str, remedy: str) -> None:
    empty = [i for i, c in enumerate(cells) if not c]
    if empty:
        found = f"column {name} is empty ({len(empty)} such line(s))"
        raise UserError(rows.where(empty[0]), found, expected, remedy)
