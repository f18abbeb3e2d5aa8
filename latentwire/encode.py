"""Write a message: `python -m latentwire.encode RUN|BUNDLE --text FILE|- [-o message.wire]`.

The bytes that it writes are all that a reader gets (`latentwire.answer`); what they cost is told on stderr.

A text that is longer than the encoder takes goes into several messages: `--split sentences -o long.wire` writes
long-1.wire, long-2.wire, …, which `latentwire.answer long-*.wire` reads in order. Numbers have equally many digits.
`--slots 7` sends the first 7 slots alone, of a wire that was trained with nested budgets (`curriculum=nested`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.errors import UserError, quoted
from suite.runs.command import command, command_parser

if TYPE_CHECKING:
    from latentwire.ends import Writer
    from latentwire.lm.frozen import FrozenLM
    from latentwire.restore import Loaded

LONGEST = 256 << 20  # bytes of a text or a message; a device such as /dev/zero has no end


def encode_text(loaded: Loaded, text: str, question: str | None = None) -> bytes:
    """Write the message of one text; arguments and errors are those of `Writer.encode`.

    Args:
        loaded: the writer's run, as `latentwire.restore.load` returned it.
        text: the text.
        question: the question, where messages hold it as well.
    """
    return loaded.writer().encode([text], None if question is None else [question])[0]


def read_bytes(place: str) -> bytes:
    """Read a file, or stdin for `-`. Raises UserError where that fails, or comes to no end."""
    _refuse_nameless(place, "a readable file, or - for stdin", "give the path of a readable file")
    try:
        with Path(place).open("rb") if place != "-" else nullcontext(sys.stdin.buffer) as file:
            found = file.read(LONGEST + 1)
        if len(found) > LONGEST:
            most = f"{LONGEST >> 20} MiB at most"
            raise UserError(place, f"more than {LONGEST >> 20} MiB", most, "give the path of a text or a message")
        return found
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(place, reason, "a readable file, or - for stdin", "give the path of a readable file") from error


def read_text(place: str) -> str:
    """Read UTF-8 text from a file or stdin, without the line ends at its end. Raises UserError."""
    try:
        return read_bytes(place).decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        remedy = f"iconv -f latin1 -t utf8 {shlex.quote(place)} > text.txt, and give that file"
        raise UserError(place, f"byte {error.start}: {error.reason}", "text in UTF-8", remedy) from error


def write_bytes(place: str, message: bytes) -> None:
    """Write to a file, or to stdout for `-`. Raises UserError where that fails."""
    _refuse_nameless(place, "a file that can be written", "give -o message.wire")
    try:
        if place == "-":
            sys.stdout.buffer.write(message)
            sys.stdout.buffer.flush()
        else:
            Path(place).write_bytes(message)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(place, reason, "a file that can be written", "give -o another path") from error


def _refuse_nameless(place: str, expected: str, remedy: str) -> None:
    if not place:
        raise UserError("the name of a file", "''", expected, remedy)


def numbered(given: str, count: int) -> list[str]:
    """Return a file name for each of several messages, in an order that a shell's `*` keeps.

    Raises:
        UserError: what is a folder, or cannot be the name of a file.
    """
    place = Path(given)
    if place.is_dir() or given.endswith("/") or not place.name:
        expected = "a file name, which gets -1, -2, … before its suffix"
        raise UserError("-o", f"{given!r}, a folder", expected, f"give -o {quoted(place / 'message.wire')}")
    digits = len(str(count))
    return [str(place.with_name(f"{place.stem}-{n:0{digits}d}{place.suffix}")) for n in range(1, count + 1)]


def cost(writer: Writer, text: str, message: bytes, lm: FrozenLM | None, name: str) -> str:
    """Say in one line how many bytes the message and other ways to send the text take.

    Args:
        writer: what wrote the message.
        text: the text.
        message: the message.
        lm: the model whose ids, keys and values are counted; None: none.
        name: its name.
    """
    from latentwire.codec.message import slots_of

    own = f"{len(message)} bytes, M = {slots_of(message)}; the text: "
    if lm is None:
        return f"{own}{len(text.encode())} as UTF-8"
    from latentwire.scoring.metrics import text_sizes

    other = text_sizes(lm, {text: lm.style.encode(text.strip() + "\n")}, [None])
    return (
        f"{own}{other['utf8']:.0f} as UTF-8, {other['zstd']:.0f} by zstd, {other['token_ids']:.0f} as token ids and "
        f"{other['kv']:.0f} as keys and values of {name}"
    )


def add_end_options(p: argparse.ArgumentParser) -> None:
    """Add what `encode` and `answer` have in common."""
    p.add_argument("--which", choices=["best", "last"], help="checkpoint of a run (default: best)")
    p.add_argument(
        "--lm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="how a bundle's language model is loaded here, e.g. source=FOLDER or device=cuda",
    )
    p.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="a package of yours that a bundle may use"
    )
    p.add_argument("--lossy", action="store_true", help="go on without characters that the tokenizer cannot represent")


def model_settings(given: Sequence[str]) -> dict[str, Any]:
    """Parse the values of `--lm`. Raises UserError for one that is no `KEY=VALUE`, or that YAML does not read."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    found: dict[str, Any] = {}
    for item in given:
        if not item.partition("=")[0] or "=" not in item:
            raise UserError("--lm", item, "KEY=VALUE", "add --lm source=FOLDER")
        try:
            read: Any = OmegaConf.to_container(OmegaConf.from_dotlist([item]), resolve=True)
            found |= read
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            key, _, value = item.partition("=")
            why = str(error).splitlines()[-1].strip()
            expected = "KEY=VALUE, with special characters of YAML and ${…} in quotes"
            remedy = f"add --lm {shlex.quote(f'{key}={json.dumps(value)}')}"
            raise UserError("--lm", f"{item}: {why}", expected, remedy) from error
    return found


def refuse_bundle_options(args: argparse.Namespace) -> None:
    """Raise UserError where options of bundles are given with a run."""
    for option, given in (("--lm", args.lm), ("--trust", args.trust)):
        if given:
            remedy = f"leave out {option}, or make a bundle: python -m latentwire.export RUN -o DIR"
            raise UserError(option, given[0], "none with a run, whose configuration says it", remedy)


def refuse_run_options(options: Mapping[str, str | None]) -> None:
    """Raise UserError where options of runs are given with a bundle."""
    for option, value in options.items():
        if value is not None:
            raise UserError(option, value, "none with a bundle, which is of one checkpoint", f"leave out {option}")


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m latentwire.encode", __doc__)
    p.add_argument("run", type=Path, help="writer bundle, or directory of a finished run")
    p.add_argument("--text", required=True, metavar="FILE", help="UTF-8 text, line ends at its end cut; - for stdin")
    p.add_argument("--question", help="where messages hold their question (wire.track=whole_prompt)")
    p.add_argument("-o", "--out", default="-", metavar="FILE", help="where the message goes (default: stdout)")
    p.add_argument("--slots", type=int, metavar="M", help="send the first M slots alone (nested budgets)")
    p.add_argument(
        "--split",
        choices=["paragraphs", "sentences", "words"],
        help="several messages, between whole units; FILE gets -1, -2, … before its suffix",
    )
    p.add_argument("--segment-tokens", type=int, metavar="N", help="most tokens of one of them (default: all it takes)")
    add_end_options(p)
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_args(argv)
    text = read_text(args.text)
    if args.split is not None and args.out == "-":
        raise UserError("-o", "stdout", "a file name, as --split writes several messages", "add -o message.wire")
    if args.split is None and args.segment_tokens is not None:
        remedy = "add --split sentences"
        raise UserError("--segment-tokens", str(args.segment_tokens), "--split, which it belongs to", remedy)

    from latentwire.bundle import is_bundle, writer_in

    if is_bundle(args.run):
        refuse_run_options({"--which": args.which})
        from latentwire.ends import Writer

        writer = Writer.load(writer_in(args.run), model_settings(args.lm), args.trust)
        lm = writer.encoder.lm
        name = "" if lm is None else lm.name
    else:
        refuse_bundle_options(args)
        from latentwire.restore import load

        loaded = load(args.run, args.which or "best")
        writer = loaded.writer()
        name, lm = next(iter(loaded.inputs.lms.items()))
    texts = [text] if args.split is None else writer.segments(text, args.split, args.segment_tokens)
    asked = None if args.question is None else [args.question] * len(texts)
    messages = writer.encode(texts, asked, args.lossy, slots=args.slots)
    places = [args.out] if args.split is None else numbered(args.out, len(messages))
    for place, part, message in zip(places, texts, messages, strict=True):
        write_bytes(place, message)
        said = f"{part}\n{args.question}" if args.question else part
        if lost := writer.lost(said):
            from latentwire.ends import told_lost

            print(told_lost(lost, said), file=sys.stderr)
        told = cost(writer, part, message, lm, name)
        print(told if args.split is None else f"{place}: {told}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
