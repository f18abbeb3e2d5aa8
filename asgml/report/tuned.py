"""What `asgml.tune` has left beside the runs of a comparison: each row's budget and chosen point."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from callbacks.errors import UserError, quoted
from callbacks.files.sealed import read_json
from suite.report.data import RunRecord
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, number, signed, texts

FILE = "tuned.json"


@dataclass(frozen=True)
class TunedRow:
    """One row of a comparison.

    Attributes:
        name: its label.
        trials: the number of its trials; 0 for a control, which takes another row's point, and for a row that is not
            tuned.
        ranges: what the trials were drawn from, by key, as text.
        point: the chosen values of the learning rate and the knobs, by key.
        number: the number of the chosen trial, from 0.
        score: its validation accuracy (or minus its error) at the best epoch.
        default: that of trial 0, the row's default point; None where it diverged.
        diverged: the number of trials that diverged.
        edge: the keys whose chosen value is the outermost of all trials.
        of: the row whose point it takes, "" for a row with trials of its own.
        runs: the hashes of the runs at the chosen point, by seed.
    """

    name: str
    trials: int
    ranges: Mapping[str, str]
    point: Mapping[str, Any]
    number: int | None = None
    score: float | None = None
    default: float | None = None
    diverged: int = 0
    edge: Sequence[str] = ()
    of: str = ""
    runs: Mapping[int, str] = field(default_factory=dict)

    @property
    def chosen(self) -> str:
        """The chosen point in words."""
        return ", ".join(f"{short(key)} {_told(value)}" for key, value in self.point.items())

    @property
    def budget(self) -> str:
        """The number of trials, or whose point it takes."""
        lost = f" ({self.diverged} diverged)" if self.diverged else ""
        return f"as {self.of}" if self.of else f"{self.trials or 'not tuned'}{lost}"


def short(key: str) -> str:
    """Return the last part of a key."""
    return key.rpartition(".")[2]


def _told(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_tuned(folder: Path) -> dict[str, TunedRow]:
    """Read the rows of a comparison by label, {} where it was not tuned; `folder` holds the runs of the experiment.

    Raises:
        UserError: a file that is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    remedy = f"rm {quoted(path)}, then start the same python -m asgml.tune again: no finished run is repeated"
    stored = read_json(path, "what asgml.tune writes", remedy)
    try:
        rows = stored["rows"]
        return {name: _row(name, node) for name, node in rows.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(str(path), f"{type(error).__name__}: {error}", "what asgml.tune writes", remedy) from error


def _row(name: str, node: Mapping[str, Any]) -> TunedRow:
    trials = node["trials"]
    at = node["chosen"]
    shared = {"of": node["of"], "runs": {int(seed): run for seed, run in node["runs"].items()}}
    if node["of"] or not trials:
        return TunedRow(name, 0, {}, node["point"], **shared)
    point, score, default = node["point"], trials[at]["score"], trials[0]["score"]
    edge = [key for key in point if _outermost(point[key], [trial["values"][key] for trial in trials])]
    diverged = sum(trial["score"] is None for trial in trials)
    return TunedRow(name, len(trials), node["ranges"], point, at, score, default, diverged, edge, **shared)


def _outermost(value: Any, tried: Sequence[Any]) -> bool:
    numbers = {v for v in tried if isinstance(v, int | float) and not isinstance(v, bool)}
    return len(numbers) > 2 and value in (min(numbers), max(numbers))


def tuned_rows(runs: Iterable[RunRecord]) -> dict[str, TunedRow]:
    """Return the tuned rows of the experiments of these runs, by label."""
    return {name: row for folder in {run.path.parent: None for run in runs} for name, row in read_tuned(folder).items()}


def at_chosen_points(runs: Sequence[RunRecord]) -> tuple[list[RunRecord], dict[str, str]]:
    """Leave out the runs of tuned rows that were made at another point, budget or length than the newest choice.

    Returns:
        The other runs, and by experiment a note on how many were left out.
    """
    tuned = {folder: read_tuned(folder) for folder in {run.path.parent for run in runs}}
    kept, gone = [], dict[str, int]()
    for run in runs:
        row = tuned[run.path.parent].get(run.label or "")
        if row is None or run.hash in row.runs.values():
            kept.append(run)
        else:
            gone[run.experiment] = gone.get(run.experiment, 0) + 1
    told = "of tuned rows, not at the point that was chosen last"
    return kept, {name: f"Left out: {n} run{'s' * (n > 1)} {told}." for name, n in gone.items()}


def tuning_table(title: str, rows: Mapping[str, TunedRow], notes: Sequence[str] = ()) -> Table:
    """Build the table of a tuning: what every row was given, what was chosen, and what validation said."""
    head = columns("row", numbers=["trials"]) + columns("chosen point", numbers=["of trial"])
    head += columns(numbers=["validation\nat the best epoch", "gain over\nthe default"]) + columns("range")
    cells = []
    for row in rows.values():
        where = "; ".join(f"{short(key)} {told}" for key, told in row.ranges.items())
        gain = None if row.score is None or row.default is None else row.score - row.default
        cells.append(
            [
                *texts(row.name, row.budget, row.chosen),
                Cell(ABSENT) if row.number is None else Cell(str(row.number)),
                number(None if row.score is None else row.score * PERCENT),
                Cell(ABSENT) if gain is None or not math.isfinite(gain) else Cell(signed(gain * PERCENT), gain),
                Cell(where or ABSENT),
            ]
        )
    told = ["Trial 0 is the row's default point. Validation of the tuning seeds, in %; the test split is not read."]
    told += budget_notes(rows)
    return Table(title, head, cells, [*told, *notes])


def budget_notes(rows: Mapping[str, TunedRow]) -> list[str]:
    """Say what a reader of tuned rows must know: unequal budgets, and choices at the edge of what was tried."""
    notes = []
    budgets: dict[int, list[str]] = {}
    for row in rows.values():
        if not row.of:
            budgets.setdefault(row.trials, []).append(row.name)
    if len(budgets) > 1:
        told = "; ".join(f"{n}: {', '.join(names)}" for n, names in sorted(budgets.items()))
        notes.append(f"The numbers of trials differ, so these rows are not tuned equally ({told}).")
    edges = [f"{row.name} ({', '.join(map(short, row.edge))})" for row in rows.values() if row.edge]
    if edges:
        notes.append(
            f"Chosen at the outermost value that was tried, so a wider range might do better: {'; '.join(edges)}."
        )
    if any(row.of for row in rows.values()):
        notes.append("“as ROW”: a control of ROW, which takes the point of ROW and has no trials of its own.")
    return notes
