"""What the studies of frozen readers share: one command line, generated passages in, a page out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.files.atomic import write_text
from latentwire.data.base import Passage
from latentwire.data.biographies import Biographies
from latentwire.data.squad_metrics import best, f1
from latentwire.examples import Example
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.pocket import load
from suite.report.tables import PERCENT, signed
from suite.runs.command import command_parser

READERS = ("pocket_llama", "pocket_qwen")

AT_ONCE = 128  # questions that are read together
SEEDS = (0, 1, 2)
LEAST = 4  # steps of a training: its schedule has quarters
NEW = 8  # tokens of the longest answer

Measure = Callable[[FrozenLM, Sequence[Passage]], dict[str, Any]]
Page = Callable[[Mapping[str, Any], int], str]


def reader_parser(study: str, text: str | None, page: Path, passages: int) -> argparse.ArgumentParser:
    """Build the parser of a study's command line.

    Args:
        study: the study's name.
        text: what `--help` prints.
        page: where its page stands.
        passages: how many test passages it reads.
    """
    p = command_parser(f"python -m latentwire.study {study}", text)
    p.add_argument("--passages", type=int, default=passages, help="test passages")
    p.add_argument("--readers", nargs="+", default=list(READERS), help="pocket readers")
    p.add_argument("--out", type=Path, default=page, help=f"the page (default: {page})")
    return p


def trained_parser(
    study: str, text: str | None, page: Path, passages: int, steps: int, rates: Sequence[float]
) -> argparse.ArgumentParser:
    """Build the parser of a study that trains something small on one reader, cell by cell; arguments as above.

    Args:
        study: the study's name.
        text: what `--help` prints.
        page: where its page stands.
        passages: how many test passages it reads.
        steps: the steps of every training.
        rates: the learning rates that every row chooses from.
    """
    p = reader_parser(study, text, page, passages)
    p.set_defaults(readers=[READERS[0]])
    p.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="seeds of every trained row")
    p.add_argument("--steps", type=int, default=steps, help="steps of every training")
    told = "learning rates, of which validation of the first seed chooses one for each row"
    p.add_argument("--rates", nargs="+", type=float, default=list(rates), help=told)
    p.add_argument("--runs", type=Path, default=Path("runs"), help="where what is computed is kept (default: runs)")
    return p


def enough(args: argparse.Namespace) -> None:
    """Refuse arguments with which a study says nothing.

    Raises:
        UserError: fewer than two passages, over which an interval has no meaning, steps that no validation divides, a
            rate that moves nothing or beyond all bounds, or a weight that is none.
    """
    if args.passages < 2:
        raise UserError("--passages", str(args.passages), "2 or more", "add --passages 40")
    for option, most in (("rates", 1.0), ("weights", inf)):
        wrong = [x for x in getattr(args, option, ()) if not (0 < x <= most and x < inf)]
        if wrong:
            expected = "more than 0, and at most 1" if most == 1 else "more than 0, and finite"
            raise UserError(f"--{option}", f"{wrong[0]:g}", expected, f"add --{option} 1e-3 3e-3")
    if getattr(args, "steps", LEAST) < LEAST:
        raise UserError("--steps", str(args.steps), f"{LEAST} or more", "add --steps 24")


def within(option: str, numbers: Sequence[int], lm: FrozenLM) -> None:
    """Refuse so many numbers per token as no embedding of a reader has.

    Args:
        option: the option that they come from.
        numbers: the numbers.
        lm: the reader.

    Raises:
        UserError: it names the option and the reader's width.
    """
    for d in numbers:
        if not 1 <= d <= lm.d_model:
            expected = f"1 to {lm.d_model}, the width of {lm.name}"
            raise UserError(option, str(d), expected, f"add {option} {min(8, lm.d_model)}")


def study_readers(args: argparse.Namespace, measure: Measure, page: Page) -> int:
    """Measure every reader on the same test passages and write the page; return the exit code.

    Raises:
        UserError: fewer than two passages, over which an interval has no meaning.
    """
    enough(args)
    split = Biographies(test=args.passages).split("test")
    passages = [split[i] for i in range(args.passages)]
    found = {name: measure(load(name), passages) for name in args.readers}
    print(f"page: {write_text(args.out, page(found, args.passages))}")
    return 0


@torch.no_grad()
def scored(
    lm: FrozenLM, asked: Sequence[Example], embeds: Callable[[Sequence[Example]], Tensor]
) -> list[dict[str, float]]:
    """Let a reader answer from embeddings in the place of texts; return F1 and NLL per question, in order.

    Args:
        lm: the reader.
        asked: the questions.
        embeds: gives what is read (B, M, d_model) of examples whose contexts have equally many tokens.
    """
    by_length: dict[int, list[int]] = {}  # embeddings carry no mask
    for place, e in enumerate(asked):
        by_length.setdefault(len(e.prompt.context), []).append(place)
    found: dict[int, dict[str, float]] = {}
    for places in by_length.values():
        for start in range(0, len(places), AT_ONCE):
            now = places[start : start + AT_ONCE]
            batch = [asked[i] for i in now]
            prefix = Prefix(embeds=embeds(batch))
            questions = [e.prompt.question for e in batch]
            answers = lm.generate(prefix, questions, NEW)
            nll = lm.answer_logprobs(prefix, questions, [e.prompt.answer for e in batch]).nll().tolist()
            for place, e, tokens, surprise in zip(now, batch, answers, nll, strict=True):
                score = best(f1, lm.style.decode(tokens), e.question.answers)
                found[place] = {"f1": float(score), "nll": surprise}
    return [found[place] for place in range(len(asked))]


def points(row: Mapping[str, Any]) -> str:
    """Return a difference of F1 and its interval in points."""
    delta, low, high = (signed(row[key] * PERCENT, 1) for key in ("delta", "low", "high"))
    return f"{delta} [{low}, {high}]"
