"""Two messages read together against one message of both texts: `python -m latentwire.study together RUN`.

Texts of the evaluated split are put in pairs, and all questions about both are asked. Rows are

    apart          each text's own message, read alone with its own questions: what composing can reach at best
    two messages   one message per text, read one behind the other: 2 M positions, twice the bytes
    one message    one message of both texts: M positions

each beside the whole text, no context, and as many tokens of text as it takes positions. Questions are told apart by
the text that they are about. No wire is trained on several messages, so the difference between the first two rows is
what a reader loses where latents stand at positions, and beside others, that training has not shown it. The numbers go
to RUN/together.json.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from callbacks.errors import UserError
from latentwire.baselines.budget import TokenBudget
from latentwire.baselines.text import NoContext, Text
from latentwire.data.base import Passage
from latentwire.examples import is_continuation
from latentwire.lm.layout import Prefix
from latentwire.report.evaluation_tables import kinds_table, result_table
from latentwire.restore import Loaded, load
from latentwire.scoring.evaluator import Evaluator
from latentwire.scoring.sending import Wire
from latentwire.wire import LatentWire
from suite.report import terminal
from suite.runs.command import command, command_parser
from suite.runs.ledger import jsonable, write_json

FILE = "together.json"
NAMED = re.compile(r"(?<=\s)[A-Z]\w+")  # a name, within a question
APART, TWO, ONE = "apart", "two messages", "one message"


class Several:
    """Sends each part of a text as a message of its own, which are read one behind the other; for the evaluator.

    Args:
        wire: the wire.
        parts: the parts of every text, equally many of each.
    """

    def __init__(self, wire: LatentWire, parts: Mapping[str, Sequence[str]]):
        self.wire, self.parts = wire, parts
        self.count = len(next(iter(parts.values())))

    @property
    def slots(self) -> int:
        """The number of latents of all messages of a text."""
        return self.count * self.wire.slots

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return the values that the receiver of texts decodes, (B, messages * slots, d_z)."""
        values = self.wire.encode([part for text in texts for part in self.parts[text]])
        return values.unflatten(0, (len(texts), self.count)).flatten(1, 2)

    def prefix(self, values: Tensor, model: str) -> Prefix:
        """Return what `model` reads for values: the injector on the latents of all messages, in order."""
        each = values.unflatten(1, (self.count, -1)).unbind(1)
        found: Prefix = self.wire.injectors[model](torch.cat([self.wire.layout.read(z, model) for z in each], 1))
        return found

    def message_bytes(self) -> int:
        """Return the bytes of all messages of a text; of the longest where they differ."""
        return self.count * self.wire.message_bytes()


def pairs_of(passages: Sequence[Passage], most: int) -> list[tuple[Passage, Passage]]:
    """Pair passages, none of them twice, such that no question about one can be read as one about the other.

    A question is taken to be about whom or what it names in words that begin with a capital letter, its first word
    aside; none of them may stand in the other text.

    Args:
        passages: the passages.
        most: largest number of pairs.
    """
    left, found = list(passages), list[tuple[Passage, Passage]]()
    while left and len(found) < most:
        first = left.pop(0)
        other = next((p for p in left if not _asks_about(first, p) and not _asks_about(p, first)), None)
        if other is not None:
            left.remove(other)
            found.append((first, other))
    return found


def _asks_about(one: Passage, other: Passage) -> bool:
    names = {name for q in one.questions for name in NAMED.findall(q.text)}
    asked = {q.text for q in one.questions} & {q.text for q in other.questions}
    return bool(asked) or any(re.search(rf"\b{re.escape(name)}\b", other.text) for name in names)


def joined(first: Passage, second: Passage) -> Passage:
    """Return the passage of both texts, whose questions are of the kind `text 1` or `text 2`."""
    questions = [replace(q, kind=f"text {n}") for n, p in enumerate((first, second), 1) for q in p.questions]
    text = f"{first.text.strip()} {second.text.strip()}"
    return Passage(f"{first.id} + {second.id}", text, tuple(questions), first.group, None)


@torch.no_grad()
def measure(loaded: Loaded, pairs: Sequence[tuple[Passage, Passage]]) -> dict[str, Any]:
    """Score a run's wire on pairs of texts; return `methods` and `kinds` as an evaluation has them.

    Args:
        loaded: the run.
        pairs: pairs of passages, see `pairs_of`.

    Raises:
        UserError: messages that hold their question, continuations, no pair, a text of both that the encoder does not
            take, or a prompt beyond a model's positions.
    """
    wire, e = loaded.wire.eval(), loaded.cfg.evaluation
    if wire.whole_prompt:
        expected, remedy = "messages of texts alone", "measure a run with wire.track=question_text"
        raise UserError("together", "messages that hold their question", expected, remedy)
    if not pairs or is_continuation(pairs[0][0].questions[0]):
        found = "no two texts whose questions can be told apart" if not pairs else "continuations"
        raise UserError("together", found, "questions about texts", "measure a run on biographies or SQuAD")
    both = [joined(a, b) for a, b in pairs]
    halves = {p.text: (a.text, b.text) for p, (a, b) in zip(both, pairs, strict=True)}
    alone = [replace(p, questions=tuple(replace(q, kind=f"text {n}") for q in p.questions))
             for pair in pairs for n, p in enumerate(pair, 1)]  # fmt: skip
    asked: dict[str, tuple[list[Passage], Wire]] = {
        APART: (alone, wire), TWO: (both, Several(wire, halves)), ONE: (both, wire)
    }  # fmt: skip
    out: dict[str, Any] = {"pairs": len(pairs), "methods": {}, "kinds": {}}
    for name, (passages, sender) in asked.items():
        baselines = {f"{name}: {b.name}": b for b in (Text(), NoContext(), TokenBudget())}
        new, seed, batch = int(e.max_new_tokens), int(loaded.cfg.seed), int(e.batch_size)
        evaluator = Evaluator(loaded.inputs.lms, passages, baselines, new, seed, batch_size=batch, n_boot=int(e.n_boot))
        scores = evaluator.run({name: sender})
        kept = {key: m for key, m in scores.methods.items() if m["kind"] != "control"}
        out["methods"] |= kept
        out["kinds"] |= {key: kinds for key, kinds in scores.kinds.items() if key in kept}
    return out


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m latentwire.study together", __doc__)
    p.add_argument("run", type=Path, help="directory of a finished run")
    p.add_argument("--pairs", type=int, default=50, help="pairs of texts at most")
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_args(argv)
    if args.pairs < 1:
        raise UserError("--pairs", str(args.pairs), "1 or more", "add --pairs 50")
    loaded = load(args.run)
    split = loaded.inputs.corpus.split(loaded.cfg.evaluation.split)
    found = measure(loaded, pairs_of([split[i] for i in range(min(len(split), 3 * args.pairs))], args.pairs))
    write_json(args.run / FILE, jsonable(found))
    wires = [key for key, m in found["methods"].items() if m["kind"] == "wire"]
    tables = [result_table(found["methods"], [f"{found['pairs']} pairs of texts."])]
    tables.append(kinds_table("F1 % by text", found["kinds"], wires))
    console = Console()
    console.print(terminal(tables, console.width))
    print(args.run / FILE)
    return 0
