"""Text cut to M tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from latentwire.baselines.base import Baseline, contexts
from latentwire.data.base import Passage, Question
from latentwire.examples import prompt_of
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import Prompt


class TokenBudget(Baseline):
    """Gives M tokens of the context where the wire has M latents, then the whole question as text: the fair budget.

    Args:
        keep: which M tokens of the context, `first` or `last`; for continuations the first are as bad as none.
    """

    name = "token_budget"
    adapts = True
    tracks = ("question_text",)
    remark = "M context tokens, question kept"

    def __init__(self, keep: Literal["first", "last"] = "first"):
        self.keep = keep

    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        ids = contexts(lm, passages, questions)
        return Prefix(text_ids=[i[:slots] if self.keep == "first" else i[-slots:] for i in ids])


class WholePromptBudget(Baseline):
    """Gives question and first M - |question| context tokens: the fair budget where a wire compresses both.

    Context, question and cue stand in their usual order, and M counts context and question; the cue stays text, as it
    does behind such a wire. The question is never cut: where it alone is longer than M, the context is empty and the
    question whole, which is more than M and in this baseline's favour.
    """

    name = "whole_prompt_budget"
    adapts = True
    tracks = ("whole_prompt",)
    remark = "question + first M - |question| context tokens; for wires that compress the question"

    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        kept = []
        for passage, question in zip(passages, questions, strict=True):
            prompt = prompt_of(lm, passage, question)
            ids = prompt.question[: len(prompt.question) - len(prompt.cue)]
            kept.append((*prompt.context[: max(0, slots - len(ids))], *ids))
        return Prefix(text_ids=kept)

    def follows(self, prompt: Prompt) -> tuple[int, ...]:
        return prompt.cue


class LegacyTruncation(Baseline):
    """Gives the first M tokens of the whole prompt, so that the question is never read: an unfair budget."""

    name = "legacy_truncation"
    fair = False
    remark = "the question is cut off; only to compare with older tables"

    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        prompts = [prompt_of(lm, p, q) for p, q in zip(passages, questions, strict=True)]
        return Prefix(text_ids=[(p.context + p.question)[:slots] for p in prompts])

    def follows(self, prompt: Prompt) -> tuple[int, ...]:
        return ()
