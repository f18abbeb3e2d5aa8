"""Read a message: `python -m latentwire.answer message.wire --run RUN --model NAME --question "Where does Ann live?"`.

The run need not be the one that wrote the message: one that was trained later with `wire.from_run=<first run>` has
the same encoder and codec and brings adapters for other models.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from callbacks.errors import UserError
from latentwire.encode import read_bytes
from suite.runs.command import command

if TYPE_CHECKING:
    from latentwire.restore import Loaded


@dataclass(frozen=True)
class Answer:
    """Holds what a model said.

    Attributes:
        model: the model's name.
        question: the question; None where the message held it.
        answer: the text, as the evaluator scores it.
        tokens: ids of the answer, without the stop token.
        logprobs: log-probability of every token in nats, the stop token's last where there was one.
        stopped: whether the model ended the answer itself; otherwise `evaluation.max_new_tokens` did.
    """

    model: str
    question: str | None
    answer: str
    tokens: list[int]
    logprobs: list[float]
    stopped: bool


def answer(
    loaded: Loaded, message: bytes, model: str, questions: Sequence[str] = (), where: str = "message"
) -> list[Answer]:
    """Answer questions about a message greedily, as the evaluator does for the same passage.

    Args:
        loaded: the reader's run, as `latentwire.restore.load` returned it: the whole run, its encoder included, as the
            fingerprint covers it; of the encoder nothing is computed here.
        message: bytes that `latentwire.encode` wrote, by this run or one with the same encoder and codec.
        model: name of one of `loaded.wire.models`.
        questions: the questions; none where messages hold theirs (`wire.track=whole_prompt`): there is one answer then.
        where: the message's name in errors, e.g. its file.

    Raises:
        UserError: no message of this wire or a damaged one, an unknown model, or questions that are missing, empty,
            of no use, or longer than the model's positions.
    """
    import torch

    from latentwire.codec.message import unpack
    from latentwire.lm.prompts import render

    wire = loaded.wire
    if model not in wire.models:
        readers = " | ".join(wire.models)
        raise UserError(f"--model {model}", "no reader of this run", readers, f"set --model {wire.models[0]}")
    values = unpack(message, wire.codec, wire.identity(), where)
    if wire.whole_prompt and questions:
        found = repr(questions[0])
        raise UserError("--question", found, "none: the message holds its question", "leave out --question")
    if not wire.whole_prompt and (not questions or not all(q.strip() for q in questions)):
        raise UserError("--question", "none, or an empty one", "one or several", "add --question 'Who …?'")
    lm, new = loaded.inputs.lms[model], int(loaded.cfg.evaluation.max_new_tokens)
    room = lm.max_tokens - len(wire.layout.indices(model)) - new
    if wire.whole_prompt:
        follows = [render(lm.style, None, "", max_tokens=room).cue]
    else:
        follows = [render(lm.style, None, q, max_tokens=room).question for q in questions]
    with torch.no_grad():
        prefix = wire.prefix(values[None].to(wire.device), model)
    made = lm.generate_scored(prefix.select([0] * len(follows)), follows, new)
    asked: list[str | None] = [None] if wire.whole_prompt else [*questions]
    return [
        Answer(model, q, lm.style.decode(tokens), tokens, logprobs, len(tokens) < new)
        for q, tokens, logprobs in zip(asked, made.tokens, made.logprobs, strict=True)
    ]


def chosen(loaded: Loaded, model: str | None) -> str:
    """Return the named model, or the only one there is. Raises UserError where there are several."""
    models = loaded.wire.models
    if model is None and len(models) > 1:
        raise UserError("--model", "none", " | ".join(models), f"add --model {models[0]}")
    return model if model is not None else models[0]


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = argparse.ArgumentParser("python -m latentwire.answer", description="Ask a language model about a message.")
    p.add_argument("message", help="file that latentwire.encode wrote; - for stdin")
    p.add_argument("--run", type=Path, required=True, help="directory of a finished run that reads such messages")
    p.add_argument("--model", help="which of the run's models answers (may be left out where there is one)")
    p.add_argument("--question", action="append", default=[], help="may be given several times; one line per answer")
    p.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint (default: best)")
    p.add_argument("--json", action="store_true", help="a JSON object per line: answer, tokens, their logprobs (nats)")
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_args(argv)
    message = read_bytes(args.message)

    from latentwire.restore import load

    loaded = load(args.run, args.which)
    for found in answer(loaded, message, chosen(loaded, args.model), args.question, args.message):
        print(json.dumps(asdict(found)) if args.json else " ".join(found.answer.splitlines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
