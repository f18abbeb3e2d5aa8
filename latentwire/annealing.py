"""How much the answers weigh beside reconstruction, and from when: `python -m latentwire.study annealing`.

An adapter alone is trained (`latentwire.token_code`, few numbers per token, a frozen pocket reader). Reconstruction
weighs 1 throughout; answers weigh w of eight sizes, in three ways:

    constant     w from the first step on
    linear       from 0 in a straight line to w at half of the steps, then w
    warm start   reconstruction alone for a quarter of the steps, then w

Beside them reconstruction alone and answers alone. All read as many texts in as many steps, each row at the learning
rate that is best for it on validation. A way is judged at the w that is best for it on validation, so that none is
better for its grid. Half an hour of a core, resumable; it writes docs/results/annealing.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from callbacks.files.atomic import write_text
from latentwire.cells import against, at_an_end, cell, f1, tuned
from latentwire.data.biographies import Biographies
from latentwire.lm.frozen import FrozenLM
from latentwire.page.scores import points
from latentwire.pocket import load
from latentwire.reader_study import enough, trained_parser, within
from latentwire.report.evaluation_tables import percent
from latentwire.token_code import Lesson, Texts, TokenCode, learn, measured, rank
from latentwire.train.curriculum import Constant, Delayed, Linear, Schedule
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, markdown, number, texts
from suite.runs.command import command

PAGE = Path("docs/results/annealing.md")
PASSAGES, VALIDATION = 40, 16
OUT_OF = 20  # test texts, of which one is of the right length
NUMBERS = 8  # per token: reconstruction alone does not reach the text, and answers alone need help
STEPS, RATES = 200, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
WEIGHTS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
CONSTANT, LINEAR, WARM = "constant", "linear", "warm start"
WAYS = (CONSTANT, LINEAR, WARM)
REBUILT, ANSWERED = "reconstruction alone", "answers alone"
Key = tuple[str, float]  # way and weight
Found = Mapping[Key, Mapping[int, Mapping[str, Any]]]  # by seed
HEAD = """# Annealing the answers' weight

Written by `python -m latentwire.study annealing`, none of it by hand; started again, only what is missing is computed.
A frozen reader gets {numbers} numbers per token of biographies of two people, one embedding per token; its adapter
alone is trained, {steps} steps of {contexts} texts and {asked} questions about each, {seeds} seeds. Reconstruction of
embeddings weighs 1, answers through the reader w: *constant*, *linear* from 0 to w over half of the steps, or after a
*warm start* of a quarter on reconstruction alone. Steps and texts are those of all rows; each has the learning rate
of {rates} that validation of its first seed likes best. {passages} test passages, {questions} questions.
F1: 95 % bootstrap over seeds and passages; differences are to the constant weight of the same row, paired by seed and
question. Share: of the answers in the loss, over the last quarter of steps.
"""


def schedule(way: str, weight: float, steps: int) -> Schedule:
    """Return the answers' weight over steps."""
    if way == LINEAR:
        return Linear(0.0, weight, steps // 2)
    return Delayed(steps // 4, weight) if way == WARM else Constant(weight)


def lesson(key: Key, steps: int, lr: float) -> Lesson:
    """Return what a row learns from."""
    way, weight = key
    answers = Constant(0.0) if way == REBUILT else schedule(way, weight, steps)
    rebuilt = Constant(0.0 if way == ANSWERED else 1.0)
    return Lesson(rebuilt, answers, steps=steps, warmup=steps // 6, lr=lr)


def keys(weights: Sequence[float]) -> list[Key]:
    """Return all rows: every way at every weight, and either part alone."""
    return [*((way, w) for w in weights for way in WAYS), (REBUILT, 0.0), (ANSWERED, 1.0)]


def measure(
    lm: FrozenLM,
    folder: Path,
    passages: int,
    weights: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    numbers: int,
    rates: Sequence[float],
) -> tuple[Found, list[str]]:
    """Compute every cell that is not there; return all, and the passage of each test question.

    Args:
        lm: the reader.
        folder: where cells lie.
        passages: number of test passages.
        weights: the answers' weights.
        seeds: seeds of adapters and streams.
        steps: steps of every training.
        numbers: numbers per token.
        rates: learning rates that every row chooses from (`tuned`).
    """
    data = Texts.of(lm, Biographies(people=2, facts_per_person=3, test=OUT_OF * passages), VALIDATION, passages)

    def compute(key: Key, lr: float, seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        code = TokenCode(lm, numbers, data.train)
        learned = learn(lm, code, data, lesson(key, steps, lr), seed)
        return measured(lm, data.test, code.read) | {"learned": learned}

    def kept(key: Key, lr: float, seed: int) -> dict[str, Any]:
        told = {"reader": lm.fingerprint(), "d": numbers, "way": key[0], "weight": key[1], "seed": seed}
        told |= {"passages": passages, "out of": OUT_OF, "validation": VALIDATION, **lesson(key, steps, lr).told()}
        return cell(folder, told, partial(compute, key, lr, seed))

    rows = keys(weights)
    found = {key: tuned(rates, seeds, partial(kept, key), lambda c: rank(c["learned"]["val"], "f1")) for key in rows}
    return found, [e.passage.group for e in data.test]


def chosen(found: Found, way: str) -> Key:
    """Return the row of a way that is best on validation: F1, then NLL, means over seeds."""

    def liked(key: Key) -> tuple[float, float]:
        val = [c["learned"]["val"] for c in found[key].values()]
        return sum(v["f1"] for v in val) / len(val), -sum(v["nll"] for v in val) / len(val)

    return max((key for key in found if key[0] == way), key=liked)


def verdict(found: Found, groups: Sequence[str], rates: Sequence[float]) -> str:
    """Say whether annealing helps: at the weight that suits each way, and at how many equal weights."""
    base = chosen(found, CONSTANT)
    told = [f"A constant weight is best on validation at w = {base[1]:g}: F1 {_f1(found[base], groups)} at test."]
    helped = []
    for way in (LINEAR, WARM):
        own = chosen(found, way)
        got = against(found[own], found[base], groups)
        word = "helps" if got.low > 0 else "costs" if got.high < 0 else "is not told apart from it"
        helped += [way] if got.low > 0 else []
        told.append(f"The {way}, best at w = {own[1]:g}, {word}: {points(got)} points.")
        signs = [against(found[k], found[CONSTANT, k[1]], groups) for k in found if k[0] == way]
        up, down = sum(s.low > 0 for s in signs), sum(s.high < 0 for s in signs)
        told.append(f"At equal weights it is ahead at {up} of {len(signs)} and behind at {down}.")
    for alone in ((REBUILT, 0.0), (ANSWERED, 1.0)):
        told.append(f"{alone[0].capitalize()}: {_f1(found[alone], groups)}.")
    first = f"Annealing helps ({', '.join(helped)})." if helped else "Annealing does not help with certainty."
    return f"**Verdict.** {doubts(found, rates)}{first} {' '.join(told)}\n"


def doubts(found: Found, rates: Sequence[float]) -> str:
    """Say what keeps the rows from deciding: weights or rates at the end of their grid, rows that learned nothing."""
    rows = [key for key in found if key[0] in WAYS]
    ends = {pick(w for _, w in rows) for pick in (min, max)}
    there = [way for way in WAYS if chosen(found, way)[1] in ends]
    begun = [key for key in rows if all(c["learned"]["val"]["step"] == 0 for c in found[key].values())]
    told = []
    if there:
        told.append(f"the best weight of {', '.join(there)} is the last of the grid, and a better one may lie beyond")
    fast = [way for way in WAYS if at_an_end(found[chosen(found, way)], rates)]
    if fast:
        ways = f"the learning rate of {', '.join(fast)}"
        told.append(f"so is {ways}" if there else f"{ways} is the last of the grid")
    if begun:
        told.append(f"in {len(begun)} of {len(rows)} rows validation prefers the start to all that was learned")
    return f"**Provisional**: {'; '.join(told)}. " if told else ""


def table(found: Found, groups: Sequence[str]) -> Table:
    """Show every way at every weight, then either part alone."""
    best = {chosen(found, way) for way in WAYS}
    lines: list[list[Cell]] = []
    strong: set[int] = set()
    for key, cells in sorted(found.items(), key=lambda item: (item[0][0] not in WAYS, item[0][1])):
        got = f1(cells, groups)
        delta = Cell(ABSENT)
        if key[0] in (LINEAR, WARM):
            delta = Cell(points(against(found[key], found[CONSTANT, key[1]], groups)))
        learned = [c["learned"] for c in cells.values()]
        val = sum(told["val"]["f1"] for told in learned) / len(learned)
        share = sum(told["share"] for told in learned) / len(learned)
        nll = [sum(c["nll"]) / len(c["nll"]) for c in cells.values()]
        cosine = [c["cosine"] for c in cells.values()]
        if key in best:
            strong.add(len(lines))
        row = texts(f"{key[1]:g}" if key[0] in WAYS else ABSENT, key[0])
        row += [percent(got.estimate, got.low, got.high), delta, number(val * PERCENT, 1)]
        row += [number(sum(x) / len(x), 3) for x in (nll, cosine)]
        lr = next(iter(cells.values()))["lr"]
        lines.append([*row, number(share * PERCENT, 1), *texts(f"{lr:g}", learned[0]["questions"], len(cells))])
    titles = [
        "F1 %\n[95 %]",
        "Δ F1 to\nconstant",
        "validation\nF1 %",
        "NLL\nnats/token",
        "cosine",
        "share of\nanswers %",
        "rate",
    ]
    head = columns("w", "answers", numbers=[*titles, "questions\nseen", "seeds"])
    return Table("", head, lines, ["Bold: a way's weight, chosen on validation."], strong)


def page(
    found: Mapping[str, tuple[Found, Sequence[str]]], passages: int, steps: int, numbers: int, rates: Sequence[float]
) -> str:
    """Return the page of what was found by reader."""
    first, groups = next(iter(found.values()))
    like = lesson((CONSTANT, 1.0), steps, rates[0])
    told: dict[str, Any] = {"steps": steps, "contexts": like.contexts, "asked": like.questions, "numbers": numbers}
    told |= {"rates": ", ".join(f"{rate:g}" for rate in rates)}
    told |= {"seeds": len(next(iter(first.values()))), "passages": passages, "questions": len(groups)}
    parts = [HEAD.format(**told)]
    for reader, (cells, own) in found.items():
        parts += [f"## `{reader}`\n", verdict(cells, own, rates), markdown([table(cells, own)])]
    return "\n".join(parts)


def _f1(cells: Mapping[int, Mapping[str, Any]], groups: Sequence[str]) -> str:
    got = f1(cells, groups)
    return f"{got.estimate * PERCENT:.1f} % [{got.low * PERCENT:.1f}, {got.high * PERCENT:.1f}]"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    p = trained_parser("annealing", __doc__, PAGE, PASSAGES, STEPS, RATES)
    p.add_argument("--weights", nargs="+", type=float, default=list(WEIGHTS), help="the answers' weights")
    p.add_argument("--numbers", type=int, default=NUMBERS, help="numbers per token")
    args = p.parse_args(argv)
    enough(args)
    found = {}
    for name in args.readers:
        folder = args.runs / "annealing"
        own = (args.passages, args.weights, args.seeds, args.steps, args.numbers, args.rates)
        lm = load(name)
        within("--numbers", [args.numbers], lm)
        found[name] = measure(lm, folder, *own)
    print(f"page: {write_text(args.out, page(found, args.passages, args.steps, args.numbers, args.rates))}")
    return 0
