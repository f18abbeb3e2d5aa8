"""When a wire pays in time: `python -m latentwire.study breakeven RUN`.

Sending a text as a message costs encoding, writing, reading and injecting it once, and then every question is read
behind M latents. Sending the text costs its prefill with every question, or once, where the reader keeps its cache. All
of it is measured on one machine, one text and one question at a time, over the length of the context: passages one
after the other, each with a message of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from callbacks.errors import UserError
from latentwire.baselines.text_codes import Ids, TextCoder
from latentwire.data.base import Passage
from latentwire.examples import context_ids, is_continuation
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import render
from latentwire.report.timing import FILE, breakeven_table
from latentwire.restore import Loaded, load
from latentwire.scoring.sending import wait
from latentwire.wire import LatentWire
from suite.report import single_report, terminal
from suite.runs.command import command, command_parser
from suite.runs.ledger import write_json

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
REPEATS = 9
CODED = 256  # tokens up to which the text's own code is timed: it is read back a token at a time


def reads_until(once: float, per_read: float, other_once: float, other_per_read: float) -> int | None:
    """Return the smallest number of reads, 1 or more, from which on `once + r per_read` costs no more than the other.

    None: it never does, or only for so few reads that it does not last.
    """
    saved = other_per_read - per_read
    ahead = once - other_once
    if saved == 0:
        return 1 if ahead <= 0 else None
    if saved < 0:
        return None
    return max(1, math.ceil(ahead / saved - 1e-12))


def measure(
    wire: LatentWire, name: str, lm: FrozenLM, passages: Sequence[Passage], tokens: int, repeats: int
) -> dict[str, Any] | None:
    """Measure one length of context on one reader; None where it does not fit into the reader's positions.

    Returns milliseconds, medians over `repeats` interleaved rounds: `encode`, `send` (bytes written and read), `inject`
    (to keys and values), `read` (one question behind the latents), `text` (one question with the text before it),
    `cache` (the text alone), `cached` (one question behind the text's cache); of texts of at most `CODED` tokens, once,
    `code` and `decode` (the text in the reader's own arithmetic code); and `tokens`, `messages`, `positions`, and the
    break-even reads `against_text` and `against_cache`.

    Args:
        wire: the wire, in evaluation mode.
        name: the reader's name.
        lm: the reader.
        passages: passages to make a context of.
        tokens: tokens that the context should have, at least one passage.
        repeats: number of rounds.
    """
    ids: list[int] = []
    texts: list[str] = []
    while not texts or len(ids) + 0.5 * len(ids) / len(texts) < tokens:
        passage = passages[len(texts) % len(passages)]
        texts.append(passage.text)
        ids += context_ids(lm, passage, passage.questions[0])
    question = render(lm.style, None, passages[0].questions[0].text).question
    latents = len(texts) * len(wire.layout.indices(name))
    if len(lm.style.head) + max(len(ids), latents) + len(question) + 1 > lm.max_tokens:
        return None
    identity, head = wire.identity(), len(lm.style.head)
    z = wire.latents_of(texts)
    values = wire.unpack(wire.pack(z, identity), identity)

    def inject() -> Prefix:
        read = wire.layout.read(values, name)
        prefix: Prefix = wire.injectors[name](read.reshape(1, -1, read.shape[-1]))
        prefix.wait()
        return prefix

    def cache() -> Prefix:
        pairs = lm.keys_and_values((*lm.style.head, *ids))
        kept = Prefix(kv=[(k[:, :, head:], v[:, :, head:]) for k, v in pairs])
        kept.wait()
        return kept

    def ask(prefix: Prefix, follows: Ids) -> None:
        lm.generate_scored(prefix, [follows], 1)

    injected, kept = lm.cached(inject()), cache()
    rounds: dict[str, Callable[[], Any]] = {
        "encode": lambda: wait(wire.latents_of(texts)),
        "send": lambda: wait(wire.unpack(wire.pack(z, identity), identity)),
        "inject": lambda: lm.cached(inject()),
        "read": lambda: ask(injected, question),
        "text": lambda: ask(Prefix(text_ids=[ids]), question),
        "cache": cache,
        "cached": lambda: ask(kept, question),
    }
    found: dict[str, list[float]] = {key: [] for key in rounds}
    for number in range(repeats + 1):
        for key, act in rounds.items():
            start = time.perf_counter()
            act()
            if number:  # the first round warms up
                found[key].append(1000 * (time.perf_counter() - start))
    ms = {key: statistics.median(times) for key, times in found.items()}
    once = ms["encode"] + ms["send"] + ms["inject"]
    return {
        "model": name,
        "tokens": len(ids),
        "messages": len(texts),
        "positions": latents,
        **ms,
        **(_coded(lm, ids) if len(ids) <= CODED else {}),
        "against_text": reads_until(once, ms["read"], 0.0, ms["text"]),
        "against_cache": reads_until(once, ms["read"], ms["cache"], ms["cached"]),
    }


def _coded(lm: FrozenLM, ids: Sequence[int]) -> dict[str, float]:
    """Return milliseconds to code a text with its reader's own probabilities, and to read it back."""
    coder = TextCoder(lm)
    assert coder.identity  # computed once per model and kept: no part of a text's time
    start = time.perf_counter()
    message = coder.pack(tuple(ids))
    coded = time.perf_counter()
    if list(coder.unpack(message)) != list(ids):
        raise RuntimeError(f"{lm.name} does not decode the text that it has coded: its logits are not repeatable")
    return {"code": 1000 * (coded - start), "decode": 1000 * (time.perf_counter() - coded)}


@torch.no_grad()
def breakeven(loaded: Loaded, lengths: Sequence[int] = LENGTHS, repeats: int = REPEATS) -> list[dict[str, Any]]:
    """Measure all readers of a run over lengths of context, as far as their positions allow.

    Raises:
        UserError: messages that hold their question, continuations, or no length that fits.
    """
    wire, split = loaded.wire.eval(), loaded.inputs.corpus.split("test")
    if wire.whole_prompt:
        remedy = "measure a run with wire.track=question_text"
        raise UserError(
            "breakeven", "messages that hold their question", "messages that several questions read", remedy
        )
    passages = [split[i] for i in range(min(len(split), max(lengths)))]
    if is_continuation(passages[0].questions[0]):
        raise UserError("breakeven", "continuations", "questions about a text", "measure a run on biographies or SQuAD")
    rows = []
    for name, lm in loaded.inputs.lms.items():
        seen: set[int] = set()
        for length in sorted(lengths):
            row = measure(wire, name, lm, passages, length, repeats)
            if row is not None and row["messages"] not in seen:
                seen.add(row["messages"])
                rows.append(row)
    if not rows:
        found = f"contexts of {min(lengths)} tokens and more"
        raise UserError("breakeven --lengths", found, "contexts that fit into the reader", "add --lengths 64")
    return rows


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m latentwire.study breakeven", __doc__)
    p.add_argument("run", type=Path, help="directory of a finished run")
    p.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="tokens of a context")
    p.add_argument("--repeats", type=int, default=REPEATS, help="rounds of which the median counts")
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_args(argv)
    if args.repeats < 1 or min(args.lengths) < 1:
        raise UserError("--repeats, --lengths", f"{args.repeats}, {args.lengths}", "1 or more", "add --repeats 9")
    loaded = load(args.run)
    rows = breakeven(loaded, args.lengths, args.repeats)
    first = next(iter(loaded.inputs.lms.values()))
    write_json(
        args.run / FILE,
        {"rows": rows, "device": str(first.input_device), "threads": torch.get_num_threads(), "repeats": args.repeats},
    )
    console = Console()
    console.print(terminal([breakeven_table(json.loads((args.run / FILE).read_text()))], console.width))
    print(f"report: {single_report(args.run)}")
    return 0
