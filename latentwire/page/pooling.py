"""The page of the study `sequence_compression`: which pooling keeps the answer under what fits it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from callbacks.files.atomic import write_text
from latentwire.page.curve import seeds
from latentwire.page.scores import BUDGET, TEXT, WIRE, configurations, f1, gain_over, methods, points, reader
from latentwire.report.stored import Score, evaluated, f1_of, methods_of
from latentwire.report.wires import f1_cell
from latentwire.sequence_compression import ALONE, CONTEXTS, EPOCHS, FITTING, KEYS, PLACES, WEIGHT, WHOLE, name
from suite.report.data import RunRecord
from suite.report.frames import Configuration
from suite.report.summary import per_seed
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, estimate, markdown, texts

PAGE = Path("docs/results/sequence_compression.md")
PLAINEST = "chunk_mean"
STEPS = 60 * EPOCHS
HEAD = """# Which pooling keeps the answer?

Written by `python -m latentwire.study sequence_compression`, none of it by hand; started again, only what is missing
runs. {state}

Six poolings of the same frozen states (`lm_hidden`, texts of six facts, about 50 tokens) to 4 tokens per latent,
`deep_prefix`; {steps} steps of {contexts} texts, equally many questions for all, nothing tuned. Beside answers (weight
1) each learns the reconstruction that fits it (weight {weight}): `{places}` where slot j is made of chunk j,
`{whole}` where no slot has a place. Controls follow below: {controls}.
The runs are short on purpose. A reader learns nothing from latents for a while and then, within some dozen steps, a
great deal: rows of 0 have not come that far in these steps, and say nothing of longer training.
"""


def write(runs: Sequence[RunRecord], wanted: int) -> Path:
    """Write the page of a study from its runs; return the page's path.

    Args:
        runs: the runs.
        wanted: the number of the study's seeds.
    """
    return write_text(PAGE, page(configurations(runs, [name(*key) for key in KEYS]), wanted))


def page(found: Sequence[Configuration], wanted: int) -> str:
    """Return the page.

    Args:
        found: the configurations that were evaluated.
        wanted: the number of the study's seeds.
    """
    known = {c.label: c for c in found}
    told = {"steps": STEPS, "contexts": CONTEXTS, "weight": WEIGHT, "places": PLACES, "whole": WHOLE}
    controls = ", ".join(f"`{pooling}` with {beside}" for pooling, beside in KEYS if FITTING[pooling] != beside)
    head = HEAD.format(state=state(known, wanted, found), controls=controls, **told)
    if not found:
        return head + "\nNo run of the study has been evaluated yet.\n"
    return "\n".join([head, ends(found[0]), verdict(known, wanted), markdown([table(known, wanted)])])


def state(known: Mapping[str, Configuration], wanted: int, found: Sequence[Configuration]) -> str:
    """Say how many seeds there are, and which rows do not have all of them."""
    missing = [name(*key) for key in KEYS if not _whole(known.get(name(*key)), wanted)]
    told = f"Seeds: {seeds(found)}."
    return told if not missing else f"{told} **Not finished**: {', '.join(missing)}."


def ends(c: Configuration) -> str:
    """Say what the text itself and no text at all score."""
    every = methods(c)
    told = [f"{key} {PERCENT * f1(c, key):.1f} %" for key in (TEXT, BUDGET, "no_context") if key in every]
    return f"Beside the wires, on the same questions: F1 of {', '.join(told)}.\n"


def scores(known: Mapping[str, Configuration], wanted: int) -> dict[str, Score]:
    """Return F1 of the finished rows with the objective that fits, by pooling."""
    found = {}
    for pooling, beside in FITTING.items():
        c = known.get(name(pooling, beside))
        score = f1_of(evaluated(c), WIRE) if c is not None and _whole(c, wanted) else None
        if score is not None:
            found[pooling] = score
    return found


def verdict(known: Mapping[str, Configuration], wanted: int) -> str:
    """Say which pooling answers best, which are not told apart, which no better than as many tokens of the text."""
    got = scores(known, wanted)
    if not got:
        return "**Verdict.** No row has all its seeds yet, and nothing is decided.\n"
    best = max(got, key=lambda k: got[k].mean)
    near: list[str] = []
    behind: list[str] = []
    lost: list[str] = []
    for pooling, score in got.items():
        c = known[name(pooling, FITTING[pooling])]
        if pooling != best:
            d = gain_over(c, WIRE, known[name(best, FITTING[best])], WIRE)
            (behind if d is not None and d.high < 0 else near).append(f"`{pooling}` ({PERCENT * score.mean:.1f} %)")
        if score.high is not None and score.high < f1(c, BUDGET):
            lost.append(f"`{pooling}`")
    told = f"`{best}` keeps most answers, F1 {PERCENT * got[best].mean:.1f} %"
    told += f"; not told apart from it: {', '.join(near)}" if near else ""
    told += f"; behind it: {', '.join(behind)}" if behind else ""
    told += f". With less than as many tokens of the text: {', '.join(lost)}" if lost else ""
    return f"**Verdict.** {told}.{_controls(known, wanted)}\n"


def _controls(known: Mapping[str, Configuration], wanted: int) -> str:
    told = ""
    for pooling, beside in KEYS:
        c, fit = known.get(name(pooling, beside)), known.get(name(pooling, FITTING[pooling]))
        if beside == FITTING[pooling] or c is None or fit is None:
            continue
        d = gain_over(fit, WIRE, c, WIRE) if _whole(c, wanted) and _whole(fit, wanted) else None
        if d is not None:
            other = beside if beside == ALONE else f"`{beside}`"
            told += f" `{pooling}` with what fits it gains {points(d)} points over it with {other}."
    return told


def table(known: Mapping[str, Configuration], wanted: int) -> Table:
    """Show all rows, those that have not run as well."""
    base = known.get(name(PLAINEST, FITTING[PLAINEST]))
    rows = []
    for pooling, beside in KEYS:
        c = known.get(name(pooling, beside))
        cells = [Cell(ABSENT)] * 6 + texts("not run") if c is None else _cells(c, base, wanted)
        rows.append([*texts(pooling, beside), *cells])
    titles = ["F1 %\n[95 %]", "F1 by seed", f"Δ F1 to\n{PLAINEST}", "NLL\nnats/token", "trained\nparameters"]
    head = columns("pooling", "beside answers", numbers=[*titles, "questions\nseen", "seeds"])
    note = "F1: 95 % bootstrap over seeds and passages; differences paired by seed and question."
    return Table("", head, rows, [note])


def _cells(c: Configuration, base: Configuration | None, wanted: int) -> list[Cell]:
    runs = evaluated(c)
    one = ", ".join(f"{methods_of(run)[WIRE]['f1'] * PERCENT:.1f}" for run in runs)
    d = None if base is None or c is base else gain_over(c, WIRE, base, WIRE)
    delta = Cell(ABSENT) if d is None else Cell(points(d), d.estimate)
    trained = sum((runs[0].result.get("parameters") or {}).values())
    nll = estimate(per_seed(c, reader(WIRE, "nll")), digits=3)
    seen = methods_of(runs[0])[WIRE].get("questions_seen")
    done = str(len(runs)) if _whole(c, wanted) else f"{len(runs)} of {wanted}, not finished"
    return [f1_cell(runs, WIRE), *texts(one), delta, nll, Cell(f"{trained:,}", trained), *texts(seen, done)]


def _whole(c: Configuration | None, wanted: int) -> bool:
    return c is not None and len(evaluated(c)) >= wanted
