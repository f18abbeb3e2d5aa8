"""How a question becomes a prompt, for training, evaluation, every baseline and the teacher alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from callbacks.errors import UserError
from latentwire.data.base import Passage, Question
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.prompts import QUESTION, Prompt, render

_CONTEXTS: WeakKeyDictionary[FrozenLM, dict[tuple[str, bool], tuple[int, ...]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Example:
    """Holds one question of an evaluation, rendered for one model.

    Attributes:
        number: the question's number over all passages; the same for all models.
        passage: the passage it is about.
        question: the question.
        prompt: the prompt with the first reference as answer.
        first: first tokens of all references.
    """

    number: int
    passage: Passage
    question: Question
    prompt: Prompt
    first: tuple[int, ...]


def examples(lm: FrozenLM, passages: Sequence[Passage]) -> list[Example]:
    """Render every question of every passage, in order. Raises UserError for a prompt that is too long."""
    found: list[Example] = []
    for p in passages:
        for q in p.questions:
            prompt = prompt_of(lm, p, q)
            first = {prompt.answer[0]}
            if not is_continuation(q):
                first |= {render(lm.style, None, q.text, a).answer[0] for a in q.answers}
            found.append(Example(len(found), p, q, prompt, tuple(first)))
    return found


def is_continuation(question: Question) -> bool:
    """Tell whether a question asks how the passage goes on: it has no text."""
    return not question.text.strip()


def prompt_of(lm: FrozenLM, passage: Passage, question: Question) -> Prompt:
    """Render the prompt with its first answer; everything that evaluates or trains a baseline takes it from here.

    For a continuation there is no template and no EOS: the context is the passage, `question` the first token of
    what follows, which every method reads as text (a KV prefix alone predicts nothing), `answer` the rest.

    Raises:
        UserError: longer than the model's positions, or a continuation of fewer than two tokens.
    """
    if not is_continuation(question):
        return render(lm.style, passage.text, question.text, question.answers[0])
    context, answer = (lm.style.encode(t) for t in (passage.text, question.answers[0]))
    if len(answer) < 2:
        raise UserError(f"continuation of {passage.id}", f"{len(answer)} tokens", "two or more", "set corpus.rest=32")
    length = len(lm.style.head) + len(context) + len(answer)
    if length > lm.max_tokens:
        raise UserError(
            f"continuation of {passage.id}",
            f"{length} tokens",
            f"at most {lm.max_tokens}",
            "lower corpus.begin and corpus.rest, or choose a reader with more positions (readers=…)",
        )
    return Prompt(lm.style.head, context, answer[:1], answer[:1], answer[1:])


def context_ids(lm: FrozenLM, passage: Passage, question: Question) -> tuple[int, ...]:
    """Return `prompt_of(...).context`, kept per model and text."""
    known = _CONTEXTS.setdefault(lm, {})
    key = passage.text, is_continuation(question)
    if key not in known:
        known[key] = prompt_of(lm, passage, question).context
    return known[key]


def whole_prompt_text(passage: Passage, question: Question) -> str:
    """Return what a wire encodes that compresses the question as well: context, then question, as in the prompt."""
    return f"{passage.text.strip()}\n{QUESTION}{question.text.strip()}"
