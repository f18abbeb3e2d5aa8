"""Embedding replay: the text's own embeddings through the path of latents. It must give the text's result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from latentwire.baselines.base import Baseline
from latentwire.data.base import Passage, Question
from latentwire.examples import prompt_of
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import Prompt


class Replay(Baseline):
    """Gives T embeddings for T tokens: any difference from `text` is a fault in the path, not in a wire.

    Args:
        anchor: where text begins: `raw`, nowhere, the whole prompt is embeddings, question and cue included;
            `question`, at the question, as behind a wire.
    """

    name = "replay"
    budgeted = False
    equal_lengths = True
    remark = "uncompressed: the text's own embeddings, equals text"

    def __init__(self, anchor: Literal["raw", "question"] = "question"):
        self.anchor = anchor

    @torch.no_grad()
    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        prompts = [prompt_of(lm, p, q) for p, q in zip(passages, questions, strict=True)]
        ids = [p.context + p.question if self.anchor == "raw" else p.context for p in prompts]
        if len({len(i) for i in ids}) != 1:
            raise ValueError("embeddings carry no mask: contexts of one length at a time")
        return Prefix(embeds=lm.embed(torch.tensor(ids)))

    def follows(self, prompt: Prompt) -> tuple[int, ...]:
        return () if self.anchor == "raw" else prompt.question
