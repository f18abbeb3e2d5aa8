"""The table that the README shows: the rows that every data set has, with their accuracy on each."""

from __future__ import annotations

from collections.abc import Sequence

from asgml.tune.page.evidence import JOINT, Evidence
from asgml.tune.page.questions import TEST
from suite.report.summary import per_seed
from suite.report.tables import PERCENT, Table, columns, estimate, texts


def short_table(sets: Sequence[Evidence]) -> Table:
    """Show per row that all data sets have its test accuracy on each, in the order of the first.

    A control stands below the row whose point it takes, as `— its <control>`.
    """
    first, *others = sets
    names = [name for name in first.rows if all(name in data.rows for data in others)]
    rows = [
        [*texts(_called(name)), *(estimate(per_seed(data.rows[name], TEST), PERCENT) for data in sets)]
        for name in names
    ]
    head = [*columns("test accuracy %"), *columns(numbers=[f"{data.name}{_seeds(data)}" for data in sets])]
    return Table("", head, rows, [], {i for i, name in enumerate(names) if name == JOINT})


def _called(name: str) -> str:
    row, _, control = name.partition("/")
    return f"— its {control}" if control else row


def _seeds(data: Evidence) -> str:
    """Return `\\n10 seeds`, or the range where rows differ."""
    found = sorted({len(c.finished) for c in data.rows.values()})
    return f"\n{found[0]} seeds" if len(found) == 1 else f"\n{found[0]}–{found[-1]} seeds"
