"""The splits of a CSV file's rows: given or cut, rows of the same files always in one, leaks counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asgml.data.csv_columns import FILES, Column
from asgml.data.csv_rows import CsvRows
from asgml.data.splits import Cut
from callbacks.errors import UserError


def split_rows(
    rows: CsvRows,
    columns: Sequence[Column],
    y: np.ndarray,
    group: np.ndarray | None,
    given: np.ndarray | None,
    cut: Cut,
) -> tuple[np.ndarray, str, list[str]]:
    """Return the split of each row, (n,) of 0, 1, 2, how the splits came about, and warnings.

    Rows with the same cells in all modalities are one recording, listed twice, where some of them name files. Numbers
    and texts alone may well come again: such rows are counted, and nothing else.

    Args:
        rows: the file.
        columns: its modalities.
        y: the labels, (n,) int64.
        group: the group of each row, (n,) strings; None without groups.
        given: the given split of each row, (n,) of 0, 1, 2; None has all cut.
        cut: how to cut.

    Raises:
        UserError: one recording in two groups or given splits; too few samples or groups to cut.
    """
    names = [name for column in columns for name in column.names]
    seen: dict[tuple[str, ...], int] = {}
    same = np.array([seen.setdefault(tuple(rows.cells[n][i] for n in names), i) for i in range(len(rows))])
    names_files = np.any([np.zeros(len(rows), bool), *(c.present for c in columns if c.content in FILES)], axis=0)
    alike = np.where(names_files, same, np.arange(len(rows)))
    if group is not None:
        _refuse_torn(rows, alike, group, "group", "give both the same group, or delete one of the two lines")
    if given is not None:
        _refuse_torn(rows, alike, given, "split", "delete one of the two lines, or put both into one split")
    first = np.unique(alike)
    of_first = None if group is None else group[first]
    if given is None:
        found, rule = cut.all(y[first], of_first)
    else:
        found, rule = cut.lacking(given[first], y[first], of_first)
    split = found[np.searchsorted(first, alike)]
    warnings = [*_repeated(rows, alike, y), *_known(same, split)]
    return split, rule, [*warnings, *_leaks(columns, split)]


def _refuse_torn(rows: CsvRows, alike: np.ndarray, part: np.ndarray, what: str, remedy: str) -> None:
    """Refuse rows that are of another part (split or group) than the first that is like them."""
    torn = np.flatnonzero(part != part[alike])
    if len(torn):
        found = f"the same cells as line {rows.lines[alike[torn[0]]]}, in another {what} ({len(torn)} such line(s))"
        raise UserError(rows.where(int(torn[0])), found, "rows that are alike in one split", remedy)


def _repeated(rows: CsvRows, alike: np.ndarray, y: np.ndarray) -> list[str]:
    again = np.flatnonzero(alike != np.arange(len(rows)))
    if not len(again):
        return []
    other = int((y[again] != y[alike[again]]).sum())
    labels = f", {other} of them with another label" if other else ""
    lines = f"line {rows.lines[again[0]]} is line {rows.lines[alike[again[0]]]}"
    return [f"{len(again)} row(s) repeat another (first: {lines}){labels}; they are kept, in one split"]


def _known(same: np.ndarray, split: np.ndarray) -> list[str]:
    train = np.unique(same[split == 0])
    known = int((np.isin(same, train) & (split != 0)).sum())
    return [f"{known} row(s) of val and test have the same cells as one of train"] if known else []


def _leaks(columns: Sequence[Column], split: np.ndarray) -> list[str]:
    """Return a warning for each modality with files that are in more than one split."""
    warnings = []
    for column in columns:
        if column.content in FILES:
            homes: dict[str, set[int]] = {}
            for row in np.flatnonzero(column.present):
                homes.setdefault(column.cells[row], set()).add(int(split[row]))
            if leaked := sum(len(s) > 1 for s in homes.values()):
                warnings.append(f"{column.name}: {leaked} file(s) are in more than one split")
    return warnings
