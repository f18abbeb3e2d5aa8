"""Compression without learning: chunk means of the model's own embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from latentwire.baselines.base import Baseline, contexts
from latentwire.data.base import Passage, Question
from latentwire.encoders.pooling import chunk_mean
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix, right_padded

FP16_BYTES = 2


class MeanPooled(Baseline):
    """Gives M embeddings, each the mean over one of M consecutive chunks of the context's embeddings."""

    name = "mean_pooled"
    remark = "chunk means of embeddings, sent as fp16"

    @torch.no_grad()
    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        ids, valid = right_padded(contexts(lm, passages, questions))
        x = lm.embed(ids).float()
        valid = valid.to(x.device)
        pooled = chunk_mean(x.masked_fill(~valid[..., None], 0.0), valid.sum(1), slots)
        return Prefix(embeds=pooled)

    def message_bytes(self, lm: FrozenLM, slots: int) -> int | None:
        return FP16_BYTES * slots * lm.d_model
