"""The one renderer of prompts: training, evaluation, every baseline and the teacher go through `render`.

A prompt is four runs of token ids, each tokenised on its own, so that the question has the same ids whether the
context stands before it as text, as latents or not at all:

    bos      BOS; for chat models everything that their template puts before the user's text (position 0 onwards)
    context  "<context>\n"
    question "Question: <question>\n" + cue; the cue is "<instruction>\n" where there is one, "Answer:", and what a chat
             template puts before the reply
    answer   " <answer>" + EOS (chat: without the space, the template's header ends the line)
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from callbacks.errors import UserError

QUESTION = "Question: "
ANSWER = "Answer:"
PROBE = 'Who is 27, "Anna-Maria" or Zoë?\n\tThat\'s 3.14 <b>x</b> – 日本.'
DATE = "2024-07-26"  # the day that a chat template takes it to be
DIRECTIVES = (*"aAwdbBmyYHIMSfzZjUWcxXGuVe", "-d", "-m", "-H", "-I", "-M", "%")  # of strftime
_CONTENT = "\ue000content\ue000"  # private use: occurs in no template


@dataclass(frozen=True)
class Style:
    """Says how one language model wants its prompts; made once per model by `plain` or `chat`.

    Attributes:
        tokenizer: the model's own.
        head: ids before the context, BOS first where the tokenizer has one.
        tail: ids between the cue and the answer (chat only).
        eos: id that ends an answer.
        max_tokens: number of positions that the model has; no prompt is longer.
        is_chat: whether prompts stand in the tokenizer's chat template.
        instruction: how answers are to be given; it stands before every answer, also where the question is compressed.
    """

    tokenizer: PreTrainedTokenizerBase
    head: tuple[int, ...]
    tail: tuple[int, ...]
    eos: int
    max_tokens: int
    is_chat: bool
    instruction: str | None = None

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of plain text: no special token is added, and none that the text spells out is obeyed."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the ids of several plain texts, as `encode` does of each."""
        if not texts:
            return []
        found = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return [tuple(ids) for ids in found["input_ids"]]

    @cached_property
    def cue(self) -> tuple[int, ...]:
        """The ids between a question and its answer."""
        return self.encode(cue_text(self.instruction)) + self.tail

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids, without special tokens and outer white space."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def lost(self, text: str) -> tuple[str, ...]:
        """Return the runs of characters of a text that its ids do not give back.

        White space and the composition of characters (NFC) do not count: tokenizers of words keep neither.
        """
        given, kept = _bare(text), _bare(self.decode(self.encode(text)))
        if given == kept:
            return ()
        pieces = SequenceMatcher(None, given, kept, autojunk=False).get_opcodes()
        return tuple(given[start:end] for tag, start, end, _, _ in pieces if tag in ("delete", "replace"))

    def fingerprint(self) -> str:
        """Return SHA-256 of how text becomes ids and back: vocabulary, frame of a prompt, and one text both ways.

        The weights of a model do not say which tokenizer belongs to them.
        """
        ids = self.encode(PROBE)
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        told = [vocabulary, self.head, self.tail, self.eos, self.is_chat, ids, self.decode(ids)]
        told += [] if self.instruction is None else [self.instruction]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def cue_text(instruction: str | None) -> str:
    """Return what stands between a question and its answer, without what a chat template adds."""
    return ANSWER if instruction is None else f"{instruction.strip()}\n{ANSWER}"


def _bare(text: str) -> str:
    return "".join(unicodedata.normalize("NFC", text).split())


def plain(tokenizer: PreTrainedTokenizerBase, max_tokens: int, instruction: str | None = None) -> Style:
    """Make the style of a base model: BOS (where the tokenizer has one), then text."""
    bos = tokenizer.bos_token_id
    head = () if bos is None else (int(bos),)
    return Style(tokenizer, head, (), _eos(tokenizer), max_tokens, False, instruction)


def chat(
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    template: Mapping[str, Any] | None = None,
    date: str = DATE,
    name: str = "<model>",
    instruction: str | None = None,
) -> Style:
    """Make the style of a chat model: its template, rendered once around a user's message and cut at the message.

    The clock of the template stands: `date` is what it prints, as `date_string` (Llama 3) or by `strftime_now`, on
    whatever day; else no cached teacher and no message would be that of yesterday.

    Args:
        tokenizer: the model's own.
        max_tokens: number of positions that the model has.
        template: keyword arguments of the template, by the names that it uses.
        date: the day, `2024-07-26`.
        name: the model's name in errors.
        instruction: how answers are to be given, see `Style`.

    Raises:
        UserError: the tokenizer has no template, or one that drops or repeats the message or does not know an argument.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            f"lms.{name}.is_chat",
            "a tokenizer without a chat template",
            "a chat model",
            f"set ++lms.{name}.is_chat=false",
        )
    try:
        day = datetime.strptime(date, "%Y-%m-%d")
    except ValueError as error:
        raise UserError(
            f"lms.{name}.date", repr(date), "a day, as 2024-07-26", f"set ++lms.{name}.date={DATE}"
        ) from error
    source = tokenizer.get_chat_template()
    known = set(re.findall(r"[A-Za-z_]\w*", source))
    if unknown := sorted(set(template or {}) - known):
        raise UserError(
            f"lms.{name}.template",
            f"{', '.join(unknown)}, which the chat template does not mention",
            "keyword arguments that act",
            f"set ++lms.{name}.template={{}}",
        )
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": _CONTENT}],
        tokenize=False,
        add_generation_prompt=True,
        chat_template=_stopped_clock(day) + source,
        **{"date_string": day.strftime("%d %b %Y"), **(template or {})},
    )
    parts = str(text).split(_CONTENT)
    if len(parts) != 2:
        raise UserError(
            f"chat template of {name}",
            f"the user's message appears {len(parts) - 1} times",
            "exactly once",
            f"set ++lms.{name}.is_chat=false",
        )
    # The template's text carries its own BOS: adding special tokens again would double it.
    head, tail = (tuple(tokenizer(p, add_special_tokens=False)["input_ids"]) for p in parts)
    return Style(tokenizer, head, tail, _eos(tokenizer), max_tokens, True, instruction)


def _stopped_clock(day: datetime) -> str:
    """Return a `strftime_now` of one day to put before a template: that of transformers knows only today."""
    told = "".join(f".replace({f!r}, {day.strftime(f)!r})" for f in (f"%{c}" for c in DIRECTIVES))
    # the empty expression keeps a line break at the beginning of the template
    return "{% macro strftime_now(format) %}{{ format" + told + " }}{% endmacro %}{{ '' }}"


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise UserError(
            "tokenizer", "no EOS token", "a token that ends an answer", "set eos_token in tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


@dataclass(frozen=True)
class Prompt:
    """Holds the ids of one rendered prompt, in reading order `bos, context, question, answer`.

    Attributes:
        cue: the end of `question` (from "Answer:" on), which stays text where the question is compressed as well.
        answer: ids that end with EOS; none where no answer was given.
    """

    bos: tuple[int, ...]
    context: tuple[int, ...]
    question: tuple[int, ...]
    cue: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of the whole prompt as one sequence."""
        return self.bos + self.context + self.question + self.answer


def render(
    style: Style, context: str | None, question: str, answer: str | None = None, *, max_tokens: int | None = None
) -> Prompt:
    """Render one prompt; nothing is ever cut.

    Args:
        style: of the model that reads.
        context: the text before the question; None: the prompt of the no-context baseline and of a wire.
        question: the question alone.
        answer: the answer to score or to train on; None: an answer will be generated.
        max_tokens: limit for the whole prompt, answer included; None: the model's positions.

    Raises:
        UserError: the prompt is too long.
    """
    return render_all(style, [(context, question, answer)], max_tokens=max_tokens)[0]


Asked = tuple[str | None, str, str | None]  # context, question, answer, as `render` takes them


def render_all(style: Style, asked: Sequence[Asked], *, max_tokens: int | None = None) -> list[Prompt]:
    """Render several prompts as `render` does, their texts tokenised together and equal ones once.

    Args:
        style: of the model that reads.
        asked: context, question and answer of each.
        max_tokens: limit for a whole prompt, answer included; None: the model's positions.

    Raises:
        UserError: a prompt is too long.
    """
    texts = [_texts(style, *one) for one in asked]
    unique = list(dict.fromkeys(text for parts in texts for text in parts if text is not None))
    ids = dict(zip(unique, style.encode_all(unique), strict=True))
    return [
        _prompt(
            style,
            () if context is None else ids[context],
            ids[words],
            () if answer is None else (*ids[answer], style.eos),
            question,
            max_tokens,
        )
        for (context, words, answer), (_, question, _) in zip(texts, asked, strict=True)
    ]


def _texts(style: Style, context: str | None, question: str, answer: str | None) -> Asked:
    said = None if answer is None else answer.strip() if style.is_chat else " " + answer.strip()
    return None if context is None else context.strip() + "\n", f"{QUESTION}{question.strip()}\n", said


def _prompt(
    style: Style,
    context_ids: tuple[int, ...],
    asked_ids: tuple[int, ...],
    answer_ids: tuple[int, ...],
    question: str,
    max_tokens: int | None,
) -> Prompt:
    limit = style.max_tokens if max_tokens is None else min(max_tokens, style.max_tokens)
    question_ids = asked_ids + style.cue
    prompt = Prompt(style.head, context_ids, question_ids, style.cue, answer_ids)
    if len(prompt.ids) > limit:
        raise UserError(
            f"prompt for the question {question.strip()[:60]!r}",
            f"{len(prompt.ids)} tokens: {len(context_ids)} of context, {len(question_ids)} of question, "
            f"{len(answer_ids)} of answer, {len(style.head)} before them",
            f"at most {limit} tokens, as nothing is cut off a prompt",
            "choose shorter texts (corpus.*) or a reader with more positions (readers=…)",
        )
    return prompt
