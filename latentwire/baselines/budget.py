"""Text cut to M tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from latentwire.baselines.base import Baseline, contexts
from latentwire.data.base import Passage, Question
from latentwire.examples import prompt_of
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Ids, Prefix
from latentwire.lm.prompts import Prompt


def sent(lm: FrozenLM, ids: Ids) -> tuple[Prefix, list[str | None]]:
    """Ids that the model reads as text, and their text."""
    return Prefix(text_ids=ids), [lm.style.decode(i) for i in ids]


class TokenBudget(Baseline):
    """The fair one: M tokens of the context where the wire has M latents, then the whole question as text.

    Args:
        keep: `first` M tokens of the context; `last` for continuation, where the first are as bad as none.
    """

    name = "token_budget"
    remark = "M context tokens, question kept"

    def __init__(self, keep: Literal["first", "last"] = "first"):
        self.keep = keep

    def prefix(
        self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int
    ) -> tuple[Prefix, list[str | None]]:
        return sent(lm, [i[:slots] if self.keep == "first" else i[-slots:] for i in contexts(lm, passages, questions)])


class WholePromptBudget(Baseline):
    """The fair one where a wire compresses the question, too: question + first M - |question| context tokens.

    Context, question and cue stand in their usual order, and M counts context and question; the cue stays text,
    as it does behind such a wire. The question is never cut: where it alone is longer than M, the context is
    empty and the question whole, which is more than M and in this baseline's favour.
    """

    name = "whole_prompt_budget"
    remark = "question + first M - |question| context tokens; for wires that compress the question"

    def prefix(
        self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int
    ) -> tuple[Prefix, list[str | None]]:
        kept = []
        for passage, question in zip(passages, questions, strict=True):
            prompt = prompt_of(lm, passage, question)
            ids = prompt.question[: len(prompt.question) - len(prompt.cue)]
            kept.append((*prompt.context[: max(0, slots - len(ids))], *ids))
        return sent(lm, kept)

    def follows(self, prompt: Prompt) -> tuple[int, ...]:
        return prompt.cue


class LegacyTruncation(Baseline):
    """The unfair one: the first M tokens of the whole prompt, so that the question is never read."""

    name = "legacy_truncation"
    fair = False
    remark = "the question is cut off; only to compare with older tables"

    def prefix(
        self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int
    ) -> tuple[Prefix, list[str | None]]:
        prompts = [prompt_of(lm, p, q) for p, q in zip(passages, questions, strict=True)]
        return sent(lm, [(p.context + p.question)[:slots] for p in prompts])

    def follows(self, prompt: Prompt) -> tuple[int, ...]:
        return ()
