"""Two readers of one message at once: `python -m latentwire.study two_readers RUN`.

All readers of a finished run answer the same questions from the same messages. Each proposes a few answers (its greedy
one, and those that begin with its next likeliest tokens), and each scores the proposals of all. Rows are

    READER             what the reader answers by itself, its probability over the candidates as confidence
    product, mean      the candidate of the highest pooled probability
    agreed             answered only where all readers say the same
    oracle             the better of the readers' own answers, chosen with the gold answer: a bound

A temperature per reader, and the confidence from which on an answer is given, are fitted on validation alone. Of a wire
with private slots it is also said what another reader gets out of them (`latentwire.leakage`), also one that is trained
to for --adversary STEPS. The numbers go to RUN/two_readers.json, the tables to RUN/two_readers.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.files.atomic import write_text
from latentwire.adversary import STEPS
from latentwire.data.base import Passage
from latentwire.examples import Example, examples, is_continuation
from latentwire.leakage import leakage
from latentwire.lm.layout import Prefix
from latentwire.report.two_readers import tables
from latentwire.restore import Loaded, load
from latentwire.scoring import opinions
from latentwire.scoring.candidates import Candidates, gather
from latentwire.scoring.messages import texts_of
from latentwire.scoring.sending import send
from latentwire.scoring.two_readers import Reader
from suite.report import markdown, terminal
from suite.runs.command import command, command_parser
from suite.runs.display import console
from suite.runs.finished import require_finished
from suite.runs.ledger import jsonable, write_json
from suite.statistics import bootstrap_interval

FILE, PAGE = "two_readers.json", "two_readers.md"
COVERAGES = (0.5, 0.8, 0.9, 0.95)
TARGETS = (0.95, 0.99)  # accuracies that a threshold is asked for
POOLS: tuple[opinions.Pool, ...] = ("product", "mean")


def readers_of(loaded: Loaded, passages: Sequence[Passage]) -> dict[str, Reader]:
    """Return the readers of a run on passages, whose messages are sent once, as bytes."""
    wire, batch = loaded.wire, int(loaded.cfg.evaluation.batch_size)
    texts, of = texts_of(passages, wire.whole_prompt)
    values = send("wire", wire, texts, of, batch).values

    def reader(name: str) -> Reader:
        def read(asked: list[Example]) -> Prefix:
            messages = [of[e.number] for e in asked]
            needed = sorted(set(messages))
            prefix = wire.prefix(values[torch.tensor(needed, device=values.device)], name)
            return prefix.select([needed.index(m) for m in messages])

        lm = loaded.inputs.lms[name]
        return Reader(
            lm, read, lambda e: e.prompt.cue if wire.whole_prompt else e.prompt.question, examples(lm, passages)
        )

    return {name: reader(name) for name in loaded.inputs.lms}


def row(name: str, confidence: Tensor, right: Tensor, f1: Tensor, groups: Sequence[str], n_boot: int) -> dict[str, Any]:
    """Return the numbers of one way to answer N questions, arguments (N,)."""
    em = bootstrap_interval(right.tolist(), groups, n_boot, 0)
    return {
        "name": name,
        "em": em.estimate,
        "em_low": em.low,
        "em_high": em.high,
        "f1": float(f1.mean()),
        "calibration_error": opinions.calibration_error(confidence, right),
        "mean_risk": opinions.mean_risk(confidence, right),
        "at": {f"{c:g}": opinions.accuracy_at(c, confidence, right) for c in COVERAGES},
    }


def ways(found: Candidates, temperatures: Mapping[str, float]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the choice and the confidence, (N,) each, of every reader and of every pool.

    A reader keeps to its own greedy answer; a pool takes the candidate that it holds most likely.
    """
    p = torch.stack(
        [
            opinions.probabilities(scores, found.mask, temperatures[name])
            for name, scores in zip(found.readers, found.scores, strict=True)
        ]
    )
    out = {name: (found.own[j], p[j].gather(1, found.own[j][:, None])[:, 0]) for j, name in enumerate(found.readers)}
    for rule in POOLS:
        confidence, choice = opinions.pooled(p, found.mask, rule).max(1)
        out[rule] = choice, confidence
    return out


def judge(val: Candidates, test: Candidates, n_boot: int = 2000) -> dict[str, Any]:
    """Fit on validation, and say on test what each way to answer reaches.

    Args:
        val: candidates of validation.
        test: candidates of the evaluated split.
        n_boot: number of bootstrap draws.

    Raises:
        UserError: a reader whose temperature nothing on validation tells.
    """
    temperatures: dict[str, float] = {}
    for name, scores in zip(val.readers, val.scores, strict=True):
        try:
            temperatures[name] = opinions.fit_temperature(scores, val.mask, val.right)
        except ValueError as error:
            expected = "a question of validation with a right candidate and a wrong one"
            raise UserError(f"temperature of {name}", str(error), expected, "add --passages 100") from error

    def picked(values: Tensor, choice: Tensor) -> Tensor:
        return values.double().gather(1, choice[:, None])[:, 0]

    rows, thresholds = [], []
    before, after = ways(val, temperatures), ways(test, temperatures)
    for name, (choice, confidence) in after.items():
        right = picked(test.right, choice)
        rows.append(row(name, confidence, right, picked(test.f1, choice), test.groups, n_boot))
        seen, sure = before[name]
        for target in TARGETS:
            level = opinions.threshold_for(target, sure, picked(val.right, seen))
            given = confidence >= level
            accuracy = float(right[given].mean()) if bool(given.any()) else None
            coverage = float(given.double().mean())
            thresholds.append(
                {"name": name, "target": target, "threshold": level, "coverage": coverage, "em": accuracy}
            )
    for name, scores in zip(test.readers, test.scores, strict=True):
        j = test.readers.index(name)
        plain = opinions.probabilities(scores, test.mask).gather(1, test.own[j][:, None])[:, 0]
        rows[j]["uncalibrated_error"] = opinions.calibration_error(plain, picked(test.right, test.own[j]))
    own = torch.stack([picked(test.right, test.own[j]) for j in range(len(test.readers))])
    partly = torch.stack([picked(test.f1, test.own[j]) for j in range(len(test.readers))])
    same = opinions.agreement(test.own)
    oracle = bootstrap_interval(own.amax(0).tolist(), test.groups, n_boot, 0)
    there = {"mean": test.mask.sum(1).double().mean(), "right": test.right.any(1).double().mean()}
    return {
        "temperatures": temperatures,
        "questions": {"validation": len(val.groups), "test": len(test.groups)},
        "candidates": {key: float(value) for key, value in there.items()},
        "rows": rows,
        "thresholds": thresholds,
        "agreement": {
            "share": float(same.double().mean()),
            "em": float(own[0][same].mean()) if bool(same.any()) else None,
            "em_apart": [float(mine[~same].mean()) for mine in own] if bool((~same).any()) else None,
        },
        "oracle": {
            "em": oracle.estimate,
            "em_low": oracle.low,
            "em_high": oracle.high,
            "f1": float(partly.amax(0).mean()),
        },
    }


@torch.no_grad()
def measure(loaded: Loaded, passages: int, count: int, adversary: int = STEPS) -> dict[str, Any]:
    """Measure a finished run.

    Args:
        loaded: the run.
        passages: number of passages of each split, at most.
        count: number of answers that each reader proposes to a question.
        adversary: number of steps that a reader is trained for to read private slots of another; 0: it is not.

    Raises:
        UserError: a run of one reader, or texts that are to be continued.
    """
    cfg = loaded.cfg
    if len(loaded.inputs.lms) < 2:
        remedy = "python -m latentwire.run experiment=pocket_smoke readers=pocket_both, and give its folder"
        raise UserError("RUN", f"one reader, {next(iter(loaded.inputs.lms))}", "a wire of two readers or more", remedy)
    splits = {}
    for name in ("val", "test"):
        split = loaded.inputs.corpus.split(name)
        splits[name] = [split[i] for i in range(min(len(split), passages))]
    if is_continuation(splits["test"][0].questions[0]):
        raise UserError("RUN", "texts to continue", "questions about texts", "give a run on corpus=biographies")
    new, batch = int(cfg.evaluation.max_new_tokens), int(cfg.evaluation.batch_size)
    found = {name: gather(readers_of(loaded, each), count, new, batch) for name, each in splits.items()}
    told = judge(found["val"], found["test"], int(cfg.evaluation.n_boot))
    return {**told, "leakage": leakage(loaded, splits["test"], adversary), "adversary": adversary}


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m latentwire.study two_readers", __doc__)
    p.add_argument("run", type=Path, help="directory of a finished run of several readers")
    p.add_argument("--passages", type=int, default=100, help="passages of validation, and of test, at most")
    p.add_argument("--candidates", type=int, default=4, help="answers that each reader proposes to a question")
    p.add_argument(
        "--adversary",
        type=int,
        default=STEPS,
        metavar="STEPS",
        help=f"steps of training for a reader to read private slots of another, and of its null; 0: none ({STEPS})",
    )
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_args(argv)
    for option, value in (("--passages", args.passages), ("--candidates", args.candidates)):
        if value < 1:
            raise UserError(option, str(value), "1 or more", f"add {option} 4")
    if args.adversary < 0:
        raise UserError("--adversary", str(args.adversary), "0 or more steps", f"add --adversary {STEPS}")
    require_finished(args.run)
    found = measure(load(args.run), args.passages, args.candidates, args.adversary)
    write_json(args.run / FILE, jsonable(found))
    shown = tables(found)
    write_text(args.run / PAGE, markdown(shown))
    screen = console()
    screen.print(terminal(shown, screen.width))
    print(args.run / PAGE)
    return 0
