"""The page of the study `nested`: one wire cut to every budget against a wire that was trained for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from callbacks.files.atomic import write_text
from latentwire.page.curve import seeds
from latentwire.page.scores import BUDGET, WIRE, beside, configurations, f1, gain_over, mean, methods, points, reader
from latentwire.page.writing import state
from latentwire.report.stored import evaluated
from latentwire.report.wires import f1_cell
from latentwire.scoring.prefixes import SERIES, at
from suite.report.data import RunRecord
from suite.report.frames import Configuration
from suite.report.summary import per_seed
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, estimate, markdown, texts
from suite.statistics import Bootstrap

PAGE = Path("docs/results/nested.md")
CLOSE = 0.02  # of F1: a difference within this is taken for none
HEAD = """# One wire for every budget

Written by `python -m latentwire.study nested`, none of it by hand; started again, only what is missing runs.
{state}

One wire is trained with nested budgets (`curriculum=nested`): each step reads whole messages or one of their prefixes.
Its messages are then cut to {budgets} latents of the same contexts, without further training. Beside each stands a wire
that was trained for that budget alone, with the curriculum of its ratio, and as many tokens of the text as there are
latents.
"""
TABLE = """## F1 at each budget

Differences are paired by seed and question; 95 % intervals over seeds and passages (bootstrap), not corrected for their
number. Questions seen: of the one wire for all its budgets together, of the others each for its own.
"""


def write(runs: Sequence[RunRecord], labels: Sequence[str], wanted: int) -> Path:
    """Write the page; return its path.

    Args:
        runs: the runs of the study.
        labels: the label of the wire with nested budgets, then those of wires for one budget each.
        wanted: the number of seeds of the study.
    """
    return write_text(PAGE, page(configurations(runs, labels), labels, wanted))


def page(found: Sequence[Configuration], labels: Sequence[str], wanted: int) -> str:
    """Return the page; arguments as in `write`, with the configurations that were evaluated."""
    nested = next((c for c in found if c.label == labels[0]), None)
    if nested is None:
        return HEAD.partition("\n\n")[0] + "\n\nNo run with nested budgets has been evaluated yet.\n"
    alone = {slots_of(c): c for c in found if c is not nested}
    told = ", ".join(str(n) for n in budgets(nested))
    parts = [HEAD.format(state=f"Seeds: {seeds(found)}. {_missing(found, labels, wanted)}".strip(), budgets=told)]
    parts += [verdict(nested, alone), TABLE, markdown([table(nested, alone)])]
    return "\n".join(parts)


def _missing(found: Sequence[Configuration], labels: Sequence[str], wanted: int) -> str:
    return state(found, labels, wanted).partition(". ")[2]


def slots_of(c: Configuration) -> int:
    """Return the number of latents of a configuration's whole messages."""
    return int(methods(c)[WIRE]["M"])


def budgets(nested: Configuration) -> dict[int, str]:
    """Return the key of the wire's row at every budget, from whole messages down."""
    cut = {int(m["M"]): key for key, m in methods(nested).items() if m.get(SERIES) == WIRE}
    return dict(sorted({slots_of(nested): WIRE, **cut}.items(), reverse=True))


def differences(nested: Configuration, alone: dict[int, Configuration]) -> dict[int, Bootstrap]:
    """Return F1 of the one wire minus that of the wire for a budget, by budget, where both were evaluated."""
    got = {n: gain_over(nested, key, alone[n], WIRE) for n, key in budgets(nested).items() if n in alone}
    return {n: difference for n, difference in got.items() if difference is not None}


def verdict(nested: Configuration, alone: dict[int, Configuration]) -> str:
    """Say in words at which budgets one training gives what a training for it gives."""
    found = differences(nested, alone)
    if not found:
        return "No wire for one budget has been evaluated yet.\n"
    kinds: dict[str, list[str]] = {"is ahead": [], "is behind": [], "is within 2 points": [], "is undecided": []}
    for n, d in found.items():
        kind = "is undecided"
        if -CLOSE < d.low and d.high < CLOSE:
            kind = "is within 2 points"
        elif d.low > 0 or d.high < 0:
            kind = "is ahead" if d.low > 0 else "is behind"
        kinds[kind].append(f"{n} latents ({points(d)})")
    told = "; ".join(f"{kind} at {', '.join(ns)}" for kind, ns in kinds.items() if ns)
    seen = mean(nested, WIRE, "questions_seen")
    each = [mean(alone[n], WIRE, "questions_seen") for n in found]
    cost = ""
    if seen is not None and all(e is not None for e in each):
        total = sum(e for e in each if e is not None)
        cost = f" It saw {seen:,.0f} questions, the others {total:,.0f} together."
    return f"**Against a wire trained for the budget, the one wire {told}.**{cost}\n"


def table(nested: Configuration, alone: dict[int, Configuration]) -> Table:
    """Show both wires and the fair budget of tokens at every budget."""
    found, rows = differences(nested, alone), []
    for n, key in budgets(nested).items():
        c, d = alone.get(n), found.get(n)
        budget = beside(nested, WIRE, BUDGET if key == WIRE else at(BUDGET, n))
        rows.append(
            [
                *texts(str(n)),
                f1_cell(evaluated(nested), key),
                Cell(ABSENT) if c is None else f1_cell(evaluated(c), WIRE),
                Cell(ABSENT) if d is None else Cell(points(d), d.estimate),
                Cell(ABSENT) if budget is None else Cell(f"{f1(nested, budget) * PERCENT:.1f}"),
                _seen(nested),
                Cell(ABSENT) if c is None else _seen(c),
            ]
        )
    titles = ["one wire, cut\nF1 % [95 %]", "a wire for it\nF1 % [95 %]", "Δ F1\n[95 %]", "as many tokens\nF1 %"]
    titles += ["questions seen\none wire", "questions seen\na wire for it"]
    return Table("", columns("latents", numbers=titles), rows)


def _seen(c: Configuration) -> Cell:
    cell = estimate(per_seed(c, reader(WIRE, "questions_seen")), digits=0)
    return Cell(cell.text.removesuffix(" ± 0"), cell.value, cell.hint)
