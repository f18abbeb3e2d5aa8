"""Read messages: `python -m latentwire.answer message.wire --bundle BUNDLE --question "Where does Ann live?"`.

Several messages of one wire, `answer a.wire b.wire …`, are read as one text: their latents behind each other, in the
order of the command line.

A reader bundle (`latentwire.export`) and the weights of its language model are all that is needed. With `--run RUN
--model NAME` a finished run answers: the one that wrote the message, or one that was trained later with
`wire.from_run=<first run>`, which has the same encoder and codec and brings adapters for other models.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from callbacks.errors import UserError
from latentwire.encode import add_end_options, model_settings, read_bytes, refuse_bundle_options, refuse_run_options
from suite.runs.command import command, command_parser

if TYPE_CHECKING:
    from latentwire.ends import Answer, Reader
    from latentwire.restore import Loaded


def answer(
    loaded: Loaded,
    message: bytes | Sequence[bytes],
    model: str,
    questions: Sequence[str] = (),
    where: str | Sequence[str] = "message",
) -> list[Answer]:
    """Answer questions about a message, or several, with a model of a run; the rest is as in `Reader.answer`.

    Args:
        loaded: the reader's run, as `latentwire.restore.load` returned it.
        message: bytes that `latentwire.encode` wrote, by this run or one with the same encoder and codec; or several.
        model: name of one of `loaded.wire.models`.
        questions: the questions.
        where: the message's name in errors; of several, a name each.
    """
    return loaded.reader(model).answer(message, questions, where)


def chosen(loaded: Loaded, model: str | None) -> str:
    """Return the named model, or the only one there is. Raises UserError where there are several."""
    models = loaded.wire.models
    if model is None and len(models) > 1:
        raise UserError("--model", "none", " | ".join(models), f"add --model {models[0]}")
    return model if model is not None else models[0]


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m latentwire.answer", __doc__)
    p.add_argument("message", nargs="+", help="files that latentwire.encode wrote, in reading order; - for stdin")
    place = p.add_mutually_exclusive_group(required=True)
    place.add_argument("--bundle", type=Path, help="reader bundle, or the folder that latentwire.export made")
    place.add_argument("--run", type=Path, help="directory of a finished run that reads such messages")
    p.add_argument("--model", help="which model answers (may be left out where there is one)")
    p.add_argument("--question", action="append", default=[], help="may be given several times; one line per answer")
    p.add_argument("--json", action="store_true", help="a JSON object per line: answer, tokens, their logprobs (nats)")
    add_end_options(p)
    return p


def reader_of(args: argparse.Namespace) -> Reader:
    """Load the reader that a command line names. Raises UserError."""
    if args.bundle is None:
        refuse_bundle_options(args)
        from latentwire.restore import load

        loaded = load(args.run, args.which or "best")
        return loaded.reader(chosen(loaded, args.model))
    refuse_run_options({"--which": args.which})
    from latentwire.bundle import reader_in
    from latentwire.ends import Reader

    reader = Reader.load(reader_in(args.bundle, args.model), model_settings(args.lm), args.trust)
    if args.model is not None and args.model != reader.name:
        remedy = f"leave out --model, or give the bundle of {args.model}"
        raise UserError(f"--model {args.model}", f"a bundle of {reader.name}", reader.name, remedy)
    return reader


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_intermixed_args(argv)
    if args.message.count("-") > 1:
        raise UserError("message", "stdin several times", "once", "give files: latentwire.encode -o a.wire")
    messages = [read_bytes(place) for place in args.message]
    reader = reader_of(args)
    for found in reader.answer(messages, args.question, args.message, args.lossy):
        print(json.dumps(asdict(found)) if args.json else " ".join(found.answer.splitlines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
