"""The one renderer of prompts: training, evaluation, every baseline and the teacher go through `render`.

A prompt is four runs of token ids, each tokenised on its own, so that the question has the same ids whether the
context stands before it as text, as latents or not at all:

    bos      BOS; for chat models everything that their template puts before the user's text (position 0 onwards)
    context  "<context>\n"
    question "Question: <question>\n" + cue; the cue is "Answer:" + what a chat template puts before the reply
    answer   " <answer>" + EOS (chat: without the space, the template's header ends the line)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from callbacks.errors import UserError

QUESTION = "Question: "
ANSWER = "Answer:"
_CONTENT = "\ue000content\ue000"  # private use: occurs in no template


@dataclass(frozen=True)
class Style:
    """How one language model wants its prompts; made once per model by `plain` or `chat`.

    Attributes:
        head: ids before the context, BOS first where the tokenizer has one.
        tail: ids between the cue and the answer (chat only).
        eos: id that ends an answer.
        max_tokens: positions that the model has; no prompt is longer.
    """

    tokenizer: PreTrainedTokenizerBase
    head: tuple[int, ...]
    tail: tuple[int, ...]
    eos: int
    max_tokens: int
    is_chat: bool

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of plain text: no special token is added, and none that the text spells out is obeyed."""
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, without special tokens and outer white space."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def plain(tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Style:
    """BOS (where the tokenizer has one), then text."""
    bos = tokenizer.bos_token_id
    head = () if bos is None else (int(bos),)
    return Style(tokenizer, head, (), _eos(tokenizer), max_tokens, False)


def chat(tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Style:
    """The tokenizer's own chat template, rendered once around a user's message and cut at the message.

    Raises:
        UserError: the tokenizer has no template, or the template drops or repeats the message.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            "lms.<model>.is_chat",
            "a tokenizer without a chat template",
            "a chat model",
            "set +lms.<model>.is_chat=false, or use a chat model",
        )
    # Llama 3 templates print a date: without one given, some print today's, and cached teachers would not match.
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": _CONTENT}],
        tokenize=False,
        add_generation_prompt=True,
        date_string="26 Jul 2024",
    )
    parts = str(text).split(_CONTENT)
    if len(parts) != 2:
        raise UserError(
            "chat template",
            f"the user's message appears {len(parts) - 1} times",
            "exactly once",
            "set +lms.<model>.is_chat=false",
        )
    # The template's text carries its own BOS: adding special tokens again would double it.
    head, tail = (tuple(tokenizer(p, add_special_tokens=False)["input_ids"]) for p in parts)
    return Style(tokenizer, head, tail, _eos(tokenizer), max_tokens, True)


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise UserError(
            "tokenizer", "no EOS token", "a token that ends an answer", "set eos_token in tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


@dataclass(frozen=True)
class Prompt:
    """Token ids of one rendered prompt, in reading order `bos, context, question, answer`.

    `cue` is the end of `question` (from "Answer:" on): what stays text where the question, too, is compressed.
    `answer` ends with EOS; it is empty where no answer was given.
    """

    bos: tuple[int, ...]
    context: tuple[int, ...]
    question: tuple[int, ...]
    cue: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """The whole prompt as one sequence."""
        return self.bos + self.context + self.question + self.answer


@dataclass
class Truncation:
    """What `render` cut: `prompts` rendered, `cut` of them shortened, by `tokens` in all. Never a question."""

    prompts: int = 0
    cut: int = 0
    tokens: int = 0


def render(
    style: Style,
    context: str | None,
    question: str,
    answer: str | None = None,
    *,
    max_tokens: int | None = None,
    truncate: Literal["refuse", "context"] = "refuse",
    count: Truncation | None = None,
) -> Prompt:
    """Renders one prompt.

    Args:
        context: None renders the prompt of the no-context baseline and of a wire.
        max_tokens: limit for the whole prompt, answer included; None: the model's positions.
        truncate: what happens above the limit: `refuse`, or `context` to drop the last tokens of the context.
        count: counts what was cut.

    Raises:
        UserError: the prompt is too long and may not be cut, or it is too long even without its context.
    """
    limit = style.max_tokens if max_tokens is None else min(max_tokens, style.max_tokens)
    context_ids = () if context is None else style.encode(context.strip() + "\n")
    cue = style.encode(ANSWER) + style.tail
    question_ids = style.encode(f"{QUESTION}{question.strip()}\n") + cue
    answer_ids: tuple[int, ...] = ()
    if answer is not None:
        answer_ids = (*style.encode(answer.strip() if style.is_chat else " " + answer.strip()), style.eos)
    fixed = len(style.head) + len(question_ids) + len(answer_ids)
    excess = max(0, fixed + len(context_ids) - limit)
    if excess and (truncate == "refuse" or fixed > limit):
        raise UserError(
            f"prompt for the question {question.strip()[:60]!r}",
            f"{fixed + len(context_ids)} tokens: {len(context_ids)} of context, {len(question_ids)} of question, "
            f"{len(answer_ids)} of answer, {len(style.head)} before them",
            f"at most {limit} tokens",
            "a question is never cut: use a shorter question or a larger max_tokens"
            if fixed > limit
            else "use shorter contexts or a larger max_tokens, or allow truncate=context (counted, context only)",
        )
    if count is not None:
        count.prompts += 1
        count.cut += excess > 0
        count.tokens += excess
    return Prompt(style.head, context_ids[: len(context_ids) - excess], question_ids, cue, answer_ids)
