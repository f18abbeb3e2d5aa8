"""Whether a loaded model reads what stands for a text as it reads the text: measured on the model itself.

Some words of the vocabulary, taken as context, question and answer, are read four ways: plainly, as one sequence of ids
without mask, positions or cache; as embeddings in a batch with padding; as the keys and values of these embeddings;
token by token behind them. All must agree but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from callbacks.errors import UserError
from latentwire.lm.anatomy import ANOTHER, CANNOT_RUN, cannot_run
from latentwire.lm.layout import Ids, Prefix
from latentwire.lm.prompts import Style
from latentwire.lm.results import AnswerLogprobs, Generation

# of what another context changes, and of the log-probabilities themselves; half precision rounds every layer
SHARE = {torch.float64: 1e-4, torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.2}
FLOOR = {torch.float64: 1e-8, torch.float32: 3e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
NEEDED = 12  # ids; the longest row takes two fewer places, then the head's


class Reader(Protocol):
    """What is probed: `FrozenLM`."""

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    style: Style
    max_tokens: int
    dtype: torch.dtype
    vocab_size: int

    @property
    def input_device(self) -> torch.device: ...
    def embed(self, ids: Tensor) -> Tensor: ...
    def cached(self, prefix: Prefix) -> Prefix: ...
    def answer_logprobs(self, prefix: Prefix, question_ids: Ids, answer_ids: Ids) -> AnswerLogprobs: ...
    def generate_scored(self, prefix: Prefix, question_ids: Ids, max_new_tokens: int) -> Generation: ...


@dataclass(frozen=True)
class Differences:
    """Holds root mean squares over answer positions and vocabulary of differences in log-probability, in nats.

    Attributes:
        found: by way of reading, the difference from the plain pass.
        context: the difference that another context makes.
        allowed: the largest difference that rounding explains.
    """

    found: dict[str, float]
    context: float
    allowed: float


@torch.no_grad()
def measure(lm: Reader) -> Differences:
    """Read one prompt four ways.

    Raises:
        UserError: too few positions or words, or the model cannot read one of the ways.
    """
    first, second, question, short, answer, long = _words(lm)
    asked, answers = [question, short], [answer, long]
    rows = [(*first, *question, *answer), (*second, *short, *long), (*second, *question, *answer)]
    plain = _plain(lm, rows)
    # the rows are equally long, so that they need no mask; the answers begin at different places
    truth = torch.cat([plain[0, -len(answer) - 1 : -1], plain[1, -len(long) - 1 : -1]])
    other = plain[2, -len(answer) - 1 : -1]
    found: dict[str, float] = {}
    prefix = Prefix(embeds=lm.embed(torch.tensor([first, second])))
    what = "embeddings"
    try:
        found[what] = _rms(lm.answer_logprobs(prefix, asked, answers).scores - truth)
        what = "keys and values"
        prefix = lm.cached(prefix)
        found[what] = _rms(lm.answer_logprobs(prefix, asked, answers).scores - truth)
        what = "single tokens behind a cache"
        made = lm.generate_scored(prefix, asked, 2)
        whole = [(*tokens, 0)[: len(scores)] for tokens, scores in zip(made.tokens, made.logprobs, strict=True)]
        best = lm.answer_logprobs(prefix, asked, whole).scores.max(1).values
        found[what] = _rms(torch.tensor([s for row in made.logprobs for s in row]) - best.cpu())
    except CANNOT_RUN as error:
        raise cannot_run(lm.name, f"a text as {what}", error) from error
    context = _rms(truth[: len(answer)] - other)
    allowed = SHARE.get(lm.dtype, 0.2) * context + FLOOR.get(lm.dtype, 1e-2) * _rms(truth)
    return Differences(found, context, allowed)


def check(lm: Reader) -> None:
    """Raise UserError where a way of reading is not the plain one."""
    differences = measure(lm)
    for what, size in differences.found.items():
        if not size <= differences.allowed:  # not a number is no agreement
            raise UserError(
                f"lm {lm.name}",
                f"{type(lm.model).__name__} reads a text given as {what} {size:.2g} nats apart from the text itself "
                f"(another text: {differences.context:.2g})",
                f"at most {differences.allowed:.2g} nats, as {lm.dtype} rounds",
                ANOTHER,
            )


def _words(lm: Reader) -> list[tuple[int, ...]]:
    """Return two contexts, two questions and two answers, spread over the vocabulary, no special token among them."""
    size = min(lm.vocab_size, lm.model.get_input_embeddings().weight.shape[0], len(lm.tokenizer))
    special = {*lm.tokenizer.all_special_ids, *lm.style.head}
    usable = [i for i in range(size) if i not in special]
    if len(usable) < NEEDED or lm.max_tokens < len(lm.style.head) + NEEDED - 2:
        raise UserError(
            f"lm {lm.name}",
            f"{lm.max_tokens} positions, {len(usable)} words, a prompt's head of {len(lm.style.head)} tokens",
            f"at least {len(lm.style.head) + NEEDED - 2} positions and {NEEDED} words",
            ANOTHER,
        )
    ids = [usable[i * len(usable) // NEEDED] for i in range(NEEDED)]
    cuts = [(0, 4), (4, 8), (8, 11), (11, 12), (1, 3), (5, 9)]
    return [tuple(ids[a:b]) for a, b in cuts]


def _plain(lm: Reader, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return log-probabilities (rows, T, V) of one bare pass over head and rows of one length."""
    ids = torch.tensor([[*lm.style.head, *row] for row in rows], device=lm.input_device)
    try:
        return lm.model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    except CANNOT_RUN as error:
        raise cannot_run(lm.name, "plain ids", error) from error


def _rms(x: Tensor) -> float:
    return float(x.double().pow(2).mean().sqrt())
