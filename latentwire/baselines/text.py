"""The two ends of the scale: the whole context as text, and none."""

from __future__ import annotations

from collections.abc import Sequence

from latentwire.baselines.base import Baseline, contexts
from latentwire.data.base import Passage, Question
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix


class Text(Baseline):
    """Gives the whole context as text: the upper bound."""

    name = "text"
    adapts = True
    budgeted = False
    remark = "upper bound: the whole context"

    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        return Prefix(text_ids=contexts(lm, passages, questions))


class NoContext(Baseline):
    """Gives nothing but the question: the lower bound."""

    name = "no_context"
    adapts = True
    budgeted = False
    remark = "lower bound: the question alone"

    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        return Prefix()
