"""Fewer numbers per token, no fewer tokens: `python -m latentwire.study pca_adapter`.

A frozen pocket reader gets one embedding per token of a text, made of d numbers: its principal components as they are,
or after a wire's adapter that alone is trained, on pure reconstruction (cosine and squared error) or on answers through
the reader. Both adapters start at the same least-squares map and read the same texts in as many steps, at a learning
rate that validation chose; each is kept as it was when validation liked it best, by its own measure. What a cosine
promises stands beside what is answered. Ten minutes of a core, resumable; it writes docs/results/pca_adapter.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from callbacks.files.atomic import write_text
from latentwire.cells import against, cell, ends, f1, mean, tuned
from latentwire.data.biographies import Biographies
from latentwire.lm.frozen import FrozenLM
from latentwire.page.scores import points
from latentwire.pocket import load
from latentwire.reader_study import enough, trained_parser, within
from latentwire.report.evaluation_tables import percent
from latentwire.token_code import Lesson, Texts, TokenCode, learn, measured, rank
from latentwire.train.curriculum import Constant
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, markdown, number, texts
from suite.runs.command import command
from suite.statistics import Bootstrap

PAGE = Path("docs/results/pca_adapter.md")
PASSAGES, VALIDATION = 40, 16
OUT_OF = 20  # test texts, of which one is of the right length
DIMENSIONS = (4, 8, 16, 32)
WARMUP = 30  # steps, or a quarter of all where that is less
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
ALIKE = 0.8  # a mean cosine that is called high
PLAIN, REBUILT, ANSWERED = "components alone", "adapter on reconstruction", "adapter on answers"
LESSONS = {
    REBUILT: Lesson(Constant(1.0), Constant(0.0), metric="cosine", steps=200),
    ANSWERED: Lesson(Constant(0.0), Constant(1.0), steps=200),
}
Found = Mapping[int, Mapping[str, Mapping[int, Mapping[str, Any]]]]  # by dimension, row and seed
HEAD = """# Fewer numbers per token, and an adapter

Written by `python -m latentwire.study pca_adapter`, none of it by hand; started again, only what is missing is
computed. A frozen reader gets {passages} test passages of biographies of two people ({questions} questions, about 50
tokens each) as one embedding per token, of d of the {width} numbers of its embeddings. No position is saved; what a row
loses, fewer numbers have cost.
Adapters: {steps} steps of {contexts} texts, {seeds} seeds; answers: {asked} questions about each. Each row has
the learning rate of {rates} that validation of its first seed likes best. Cosine: of every token's embedding with its
own, a mean; nearest: tokens of whose vocabulary their own lies nearest. F1: 95 % bootstrap over seeds and passages.
"""


def compute(lm: FrozenLM, data: Texts, d: int, seed: int, lesson: Lesson | None) -> dict[str, Any]:
    """Train and test one cell; without a lesson components alone are tested."""
    torch.manual_seed(seed)
    code = TokenCode(lm, d, data.train).eval()
    if lesson is None:
        return measured(lm, data.test, code.linear)
    told = learn(lm, code, data, lesson, seed)
    return measured(lm, data.test, code.read) | {"learned": told}


def measure(
    lm: FrozenLM,
    folder: Path,
    passages: int,
    dimensions: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    rates: Sequence[float],
) -> tuple[Found, list[str]]:
    """Compute every cell that is not there; return all, and the passage of each test question.

    Args:
        lm: the reader.
        folder: where cells lie.
        passages: number of test passages.
        dimensions: numbers per token.
        seeds: seeds of adapters and streams.
        steps: steps of every training.
        rates: learning rates that every trained row chooses from (`tuned`).
    """
    corpus = Biographies(people=2, facts_per_person=3, test=OUT_OF * passages)
    data = Texts.of(lm, corpus, VALIDATION, passages)

    def kept(d: int, row: str, lr: float, seed: int) -> dict[str, Any]:
        lesson = replace(LESSONS[row], steps=steps, lr=lr, warmup=min(WARMUP, steps // 4)) if row in LESSONS else None
        told = {"reader": lm.fingerprint(), "d": d, "row": row, "seed": seed, "passages": passages}
        told |= {"out of": OUT_OF, **({"validation": VALIDATION, **lesson.told()} if lesson else {"steps": 0})}
        return cell(folder, told, partial(compute, lm, data, d, seed, lesson))

    def row_of(d: int, row: str) -> dict[int, dict[str, Any]]:
        if row not in LESSONS:
            return {seeds[0]: kept(d, row, 0.0, seeds[0])}  # components know no chance
        metric = LESSONS[row].metric
        return tuned(rates, seeds, partial(kept, d, row), lambda c: rank(c["learned"]["val"], metric))

    found = {d: {row: row_of(d, row) for row in (PLAIN, *LESSONS)} for d in dimensions}
    return found, [e.passage.group for e in data.test]


def gain(rows: Mapping[str, Mapping[int, Mapping[str, Any]]], groups: Sequence[str]) -> Bootstrap:
    """Return F1 of answers minus that of reconstruction, paired by seed and question."""
    return against(rows[ANSWERED], rows[REBUILT], groups)


def verdict(found: Found, groups: Sequence[str]) -> str:
    """Say where a high cosine goes with few answers, and at which dimensions answers teach more than reconstruction."""
    loose: list[str] = []
    ahead: list[str] = []
    behind: list[str] = []
    open_: list[str] = []
    for d, rows in found.items():
        close, score = mean(rows[REBUILT], "cosine"), f1(rows[REBUILT], groups)
        if close >= ALIKE and score.high < 0.5:
            loose.append(f"d = {d} (cosine {close:.2f}, F1 {score.estimate * PERCENT:.1f} %)")
        got = gain(rows, groups)
        told = f"d = {d} ({points(got)})"
        (ahead if got.low > 0 else behind if got.high < 0 else open_).append(told)
    high = f"a mean cosine of {ALIKE} or more"
    first = f"At no dimension does {high} go with less than half of the answers."
    if loose:
        first = f"Reconstruction ends with {high} and less than half of the answers at {', '.join(loose)}."
    kinds = (("is ahead", ahead), ("is behind", behind), ("is not told apart", open_))
    second = "; ".join(f"{kind} at {', '.join(at)}" for kind, at in kinds if at)
    return f"**Verdict.** {first} Against it, in points of F1, the adapter on answers {second}.\n"


def table(found: Found, groups: Sequence[str], rates: Sequence[float]) -> Table:
    """Show all rows."""
    lines = []
    for d, rows in found.items():
        for row, cells in rows.items():
            got = f1(cells, groups)
            delta = Cell(ABSENT)
            if row == ANSWERED:
                delta = Cell(points(gain(rows, groups)))
            close = [number(mean(cells, "cosine"), 3), number(mean(cells, "nearest") * PERCENT, 1)]
            questions = next(iter(cells.values())).get("learned", {}).get("questions", 0)
            row_cells = [*texts(str(d), row), *close, percent(got.estimate, got.low, got.high), delta]
            lr = next(iter(cells.values())).get("lr")
            row_cells += [number(mean(cells, "nll"), 3), *texts(f"{lr:g}" if lr else ABSENT)]
            lines.append([*row_cells, *texts(questions, len(cells) if row in LESSONS else ABSENT)])
    notes = ends({f"{row} (d = {d})": cells for d, rows in found.items() for row, cells in rows.items()}, rates)
    titles = ["cosine", "nearest\n%", "F1 %\n[95 %]", "Δ F1 to\nreconstruction", "NLL\nnats/token", "rate"]
    return Table("", columns("d", "row", numbers=[*titles, "questions\nseen", "seeds"]), lines, notes)


def page(
    found: Mapping[str, tuple[Found, Sequence[str]]], width: int, passages: int, steps: int, rates: Sequence[float]
) -> str:
    """Return the page of what was found by reader."""
    first, groups = next(iter(found.values()))
    seeds = len(next(iter(first.values()))[REBUILT])
    lesson = LESSONS[ANSWERED]
    told: dict[str, Any] = {
        "steps": steps,
        "contexts": lesson.contexts,
        "asked": lesson.questions,
        "seeds": seeds,
        "width": width,
    }
    told |= {"rates": ", ".join(f"{rate:g}" for rate in rates)}
    parts = [HEAD.format(passages=passages, questions=len(groups), **told)]
    for reader, (cells, own) in found.items():
        parts += [f"## `{reader}`\n", verdict(cells, own), markdown([table(cells, own, rates)])]
    return "\n".join(parts)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    p = trained_parser("pca_adapter", __doc__, PAGE, PASSAGES, LESSONS[REBUILT].steps, RATES)
    p.add_argument("--dimensions", nargs="+", type=int, default=list(DIMENSIONS), help="numbers per token")
    args = p.parse_args(argv)
    enough(args)
    folder = args.runs / "pca_adapter"
    found, width = {}, 0
    for name in args.readers:
        lm = load(name)
        width = lm.d_model
        within("--dimensions", args.dimensions, lm)
        found[name] = measure(lm, folder, args.passages, args.dimensions, args.seeds, args.steps, args.rates)
    print(f"page: {write_text(args.out, page(found, width, args.passages, args.steps, args.rates))}")
    return 0
