"""What one more reader costs, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, number, texts

NOT_REACHED = "not reached"


def cost_tables(costs: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Show what each reader took until each level, and where it stood at epochs 1, 2, 4, 8, … and the last.

    Args:
        costs: what `latentwire.family.Cost.plain` returns, at least one.
    """
    return [_reached(costs), _along(costs)]


def _reached(costs: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for c in costs:
        row = [*texts(*_named(c)), _thousands(c["parameters"]), number(PERCENT * c["text_f1"], 1)]
        for point in c["reached"].values():
            if point is None:
                row += [Cell(NOT_REACHED), Cell(ABSENT)]
            else:
                row += [Cell(f"{point['questions']}", point["questions"]), number(point["minutes"], 1)]
        best = max((p["share"] for p in c["points"]), default=None)
        rows.append([*row, number(best, 3), number(c["test_share"], 3)])
    head = ["trained\nparameters", "text\nF1 %"]
    for level in costs[0]["reached"]:
        head += [f"{level}:\nquestions", f"{level}:\nminutes"]
    note = (
        "Until validation first reached that share of the F1 of the reader's own text on the same questions. First: "
        "the reader that the wire was made with, encoder and codec trained as well, earlier runs included. Added: "
        "adapter and injector alone. Minutes of training steps on the machine at hand. Best share: in validation; "
        "evaluated share: on the evaluated split, with the weights that were kept."
    )
    names = columns("sender", "run", "reader", "role", "seed", numbers=[*head, "best\nshare", "evaluated\nshare"])
    return Table("Cost of a reader", names, rows, [note])


def _along(costs: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for c in costs:
        last = c["points"][-1]["epoch"] if c["points"] else 0
        for p in c["points"]:
            if p["epoch"] & (p["epoch"] - 1) == 0 or p["epoch"] == last:
                shown = [number(p["minutes"], 1), number(PERCENT * p["f1"], 1), number(p["share"], 3)]
                rows.append([*texts(*_named(c), p["epoch"], p["questions"]), *shown])
    names = columns(
        "sender", "run", "reader", "role", "seed", numbers=["epoch", "questions", "minutes", "F1 %", "share\nof text"]
    )
    return Table("Along the training", names, rows, ["Validation with the weights of that moment."])


def _named(c: Mapping[str, Any]) -> list[object]:
    return [c["sender"], Path(c["run"]).name[:6], c["reader"], c["role"], c["seed"]]


def _thousands(count: int) -> Cell:
    return Cell(f"{count / 1000:.0f} k", count)
