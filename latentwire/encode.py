"""Write a message: `python -m latentwire.encode RUN --text FILE|- [-o message.wire]`.

The bytes that it writes are all that a reader gets (`latentwire.answer`); what they cost is told on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from callbacks.errors import UserError
from suite.runs.command import command

if TYPE_CHECKING:
    from latentwire.restore import Loaded


def encode_text(loaded: Loaded, text: str, question: str | None = None) -> bytes:
    """Write the message of one text, in the format of `latentwire.codec.message`.

    Args:
        loaded: the writer's run, as `latentwire.restore.load` returned it.
        text: the text; every character counts, outer white space too.
        question: the question, where messages hold it as well (`wire.track=whole_prompt`), and only there.

    Raises:
        UserError: an empty text, one that is longer than the encoder takes (also with `encoder.overflow=count`: a
            message holds all of its text), or a question that is missing, empty or of no use.
    """
    import torch

    from latentwire.codec.message import pack
    from latentwire.data.base import Passage, Question
    from latentwire.examples import whole_prompt_text

    wire = loaded.wire
    if wire.whole_prompt:
        if not (question or "").strip():
            raise UserError("--question", "none", "a question: this run's messages hold it", "add --question 'Who …?'")
        asked = Question("", str(question), ("",), "")
        text = whole_prompt_text(Passage("", text, (asked,), "", None), asked)
    elif question is not None:
        remedy = "leave out --question here and give it to python -m latentwire.answer"
        raise UserError("--question", repr(question), "none: this run's messages hold the text alone", remedy)
    tokens = wire.encoder.tokenize([text])
    if tokens.cut[0]:
        raise UserError(
            "text to encode",
            f"{tokens.cut[0]} tokens too long: {text[:60]!r}…",
            f"at most {wire.encoder.max_tokens}, as nothing is cut off a message",
            f"write several messages, or train with encoder.max_tokens={wire.encoder.max_tokens + tokens.cut[0]}",
        )
    with torch.no_grad():
        z = wire.encoder(tokens.to(wire.device), wire.layout)[0]
    return pack(z, wire.codec, wire.identity())


def read_bytes(place: str) -> bytes:
    """Read a file, or stdin for `-`. Raises UserError where that fails."""
    try:
        return sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(place, reason, "a readable file, or - for stdin", "give the path of a readable file") from error


def read_text(place: str) -> str:
    """Read UTF-8 text from a file or stdin, without the line ends at its end. Raises UserError."""
    try:
        return read_bytes(place).decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        remedy = f"iconv -f latin1 -t utf8 {place}"
        raise UserError(place, f"byte {error.start}: {error.reason}", "text in UTF-8", remedy) from error


def write_bytes(place: str, message: bytes) -> None:
    """Write to a file, or to stdout for `-`. Raises UserError where that fails."""
    try:
        if place == "-":
            sys.stdout.buffer.write(message)
            sys.stdout.buffer.flush()
        else:
            Path(place).write_bytes(message)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(place, reason, "a file that can be written", "give -o another path") from error


def cost(loaded: Loaded, text: str, message: bytes) -> str:
    """Say in one line how many bytes the message and other ways to send the text take."""
    from latentwire.scoring.metrics import text_sizes

    name, lm = next(iter(loaded.inputs.lms.items()))
    other = text_sizes(lm, {text: lm.style.encode(text.strip() + "\n")}, [None])
    return (
        f"{len(message)} bytes, M = {loaded.wire.slots}; the text: {other['utf8']:.0f} as UTF-8, "
        f"{other['zstd']:.0f} by zstd, {other['token_ids']:.0f} as token ids and {other['kv']:.0f} as keys and values "
        f"of {name}"
    )


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = argparse.ArgumentParser("python -m latentwire.encode", description="Write the message of one text.")
    p.add_argument("run", type=Path, help="directory of the finished run whose encoder and codec write")
    p.add_argument("--text", required=True, metavar="FILE", help="UTF-8 text, line ends at its end cut; - for stdin")
    p.add_argument("--question", help="for runs with wire.track=whole_prompt, whose messages hold the question")
    p.add_argument("-o", "--out", default="-", metavar="FILE", help="where the message goes (default: stdout)")
    p.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint (default: best)")
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_args(argv)
    text = read_text(args.text)

    from latentwire.restore import load

    loaded = load(args.run, args.which)
    message = encode_text(loaded, text, args.question)
    write_bytes(args.out, message)
    print(cost(loaded, text, message), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
