"""Which samples a run has learned from or was chosen on, so that none of them is scored as if it were new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np

from asgml.data.contents import sample_contents
from asgml.data.shard_rows import ShardRows
from asgml.data.spec import Split, Table
from callbacks.errors import UserError

Seen = dict[str, np.ndarray]  # by split the sorted digests of its samples, (n,) int64
LEARNED: dict[Split, str] = {"train": "was trained on", "val": "was chosen on (validation)"}
FLAG = "--keep-seen"


def seen_in(tables: Mapping[Split, Table]) -> Seen:
    """Return the digests of the samples of training and validation: 8 bytes for each that is known."""
    found = {split: sample_contents(tables[split]) for split in LEARNED}
    return {split: np.sort(digests[digests != 0]) for split, digests in found.items()}


def joined(*parts: Seen | None) -> Seen | None:
    """Return what several trainings have seen together; None where one of them is not known."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return {split: np.sort(np.concatenate([part[split] for part in known])) for split in LEARNED}


def unseen(table: Table, seen: Seen | None, keep: bool = False) -> tuple[Table, list[str]]:
    """Return the samples of a table that a run has not seen, and a line for each thing to know about that.

    Where several samples are the same (a table of few whole numbers), as many of them are left out as were seen.

    Args:
        table: labelled samples.
        seen: what the run has seen; None where it is of an earlier release, which did not note it.
        keep: whether seen samples are kept, and only counted.

    Raises:
        UserError: every sample was seen.
    """
    if table.unseen:
        return table, []
    rows, told = unseen_rows(sample_contents(table), seen, keep)
    return (table if len(rows) == len(table) else _taken(table, rows)), told


def unseen_rows(
    digests: np.ndarray, seen: Seen | None, keep: bool = False, what: str = "samples"
) -> tuple[np.ndarray, list[str]]:
    """Return which of some samples a run has not seen, and lines, as `unseen`.

    Args:
        digests: what they hold, (n,) int64; 0 where it is not known.
        seen: what the run has seen; None where it is of an earlier release, which did not note it.
        keep: whether seen samples are kept, and only counted.
        what: what the samples are called.

    Raises:
        UserError: every sample was seen.
    """
    everyone = np.arange(len(digests))
    if seen is None:
        told = f"the run is of an earlier release: which of these {what} it has seen in training is not known"
        return everyone, [told]
    left = np.ones(len(digests), dtype=bool)
    counts: dict[Split, int] = {}
    for split in LEARNED:
        again = left & _among(np.where(left, digests, 0), seen[split])
        counts[split], left = int(again.sum()), left & ~again
    if left.all():
        return everyone, []
    counted = " and ".join(f"{n} that it {LEARNED[split]}" for split, n in counts.items() if n)
    told = f"of {len(digests)} {what} the run has seen {len(digests) - int(left.sum())}, {counted}"
    if keep:
        return everyone, [f"{told}: scored all the same ({FLAG})"]
    if not left.any():
        remedy = f"give {what} that the run has not seen, or add {FLAG} to score these all the same"
        raise UserError("data", told, f"{what} that the run has not learned from", remedy)
    return np.flatnonzero(left), [f"{told}: left out ({FLAG} scores them)"]


def _among(digests: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return which digests are among those seen, (n,) bool, each seen one used once; 0 never is."""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    turn = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)  # how many of the same come before
    copies = np.searchsorted(seen, ordered, side="right") - np.searchsorted(seen, ordered)
    out = np.zeros(len(digests), dtype=bool)
    out[order] = (turn < copies) & (ordered != 0)
    return out


def _taken(table: Table, rows: np.ndarray) -> Table:
    """Return some samples of a table, media unread."""
    return replace(
        table,
        x={m: cast("np.ndarray", x.taken(rows) if isinstance(x, ShardRows) else x[rows]) for m, x in table.x.items()},
        present={m: p[rows] for m, p in table.present.items()},
        y=table.y[rows],
        ids=[table.ids[row] for row in rows],
        lengths={m: n[rows] for m, n in table.lengths.items()},
        row=None if table.row is None else table.row[rows],
        group=None if table.group is None else table.group[rows],
    )
