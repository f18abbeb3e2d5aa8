"""The two ends of the scale: the whole context as text, and none."""

from __future__ import annotations

from collections.abc import Sequence

from latentwire.baselines.base import Baseline, contexts
from latentwire.data.base import Passage, Question
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix


class Text(Baseline):
    """Upper bound: the plain prompt."""

    name = "text"
    remark = "upper bound: the whole context"

    def prefix(
        self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int
    ) -> tuple[Prefix, list[str | None]]:
        ids = contexts(lm, passages, questions)
        return Prefix(text_ids=ids), [lm.style.decode(i) for i in ids]


class NoContext(Baseline):
    """Lower bound: the question alone."""

    name = "no_context"
    remark = "lower bound: the question alone"

    def prefix(
        self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int
    ) -> tuple[Prefix, list[str | None]]:
        return Prefix(), ["" for _ in passages]
