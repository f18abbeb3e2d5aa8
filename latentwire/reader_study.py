"""What the studies of frozen readers share: one command line, generated passages in, a page out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.errors import UserError
from callbacks.files.atomic import write_text
from latentwire.data.base import Passage
from latentwire.data.biographies import Biographies
from latentwire.lm.frozen import FrozenLM
from latentwire.pocket import load
from suite.report.tables import PERCENT, signed
from suite.runs.command import command_parser

READERS = ("pocket_llama", "pocket_qwen")

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


def study_readers(args: argparse.Namespace, measure: Measure, page: Page) -> int:
    """Measure every reader on the same test passages and write the page; return the exit code.

    Raises:
        UserError: fewer than two passages, over which an interval has no meaning.
    """
    if args.passages < 2:
        raise UserError("--passages", str(args.passages), "2 or more", "add --passages 40")
    split = Biographies(test=args.passages).split("test")
    passages = [split[i] for i in range(args.passages)]
    found = {name: measure(load(name), passages) for name in args.readers}
    print(f"page: {write_text(args.out, page(found, args.passages))}")
    return 0


def points(row: Mapping[str, Any]) -> str:
    """Return a difference of F1 and its interval in points."""
    delta, low, high = (signed(row[key] * PERCENT, 1) for key in ("delta", "low", "high"))
    return f"{delta} [{low}, {high}]"
