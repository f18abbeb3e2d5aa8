"""Greedy generation from whatever a batch was laid out as."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from latentwire.lm.results import Generation


class Speaker(Protocol):
    """What generates: `FrozenLM`."""

    model: Any
    stop_ids: set[int]

    def embed(self, ids: Tensor) -> Tensor: ...


def greedy(lm: Speaker, given: dict[str, Any], max_new_tokens: int) -> Generation:
    """Answer greedily, with log-probabilities, until all rows have stopped.

    The loop is written out as that of transformers loses embeddings that are given beside a cache.

    Args:
        lm: the model.
        given: what its forward takes: embeddings, mask, positions, cache or None in its place.
        max_new_tokens: number of tokens after which a row ends.
    """
    if given["past_key_values"] is None:
        given["past_key_values"] = DynamicCache(config=lm.model.config)
    batch = len(given["attention_mask"])
    tokens: list[list[int]] = [[] for _ in range(batch)]
    logprobs: list[list[float]] = [[] for _ in range(batch)]
    running = [True] * batch
    for step in range(max_new_tokens):
        out = lm.model(**given, use_cache=True, logits_to_keep=1)
        best, chosen = out.logits[:, -1].float().log_softmax(-1).max(-1)
        for i, (token, score) in enumerate(zip(chosen.tolist(), best.tolist(), strict=True)):
            if running[i]:
                logprobs[i].append(score)
                running[i] = token not in lm.stop_ids
                if running[i]:
                    tokens[i].append(token)
        if not any(running) or step + 1 == max_new_tokens:
            break
        mask = given["attention_mask"]
        given |= {
            "inputs_embeds": lm.embed(chosen[:, None]),
            "attention_mask": torch.cat([mask, mask.new_ones(batch, 1)], 1),
            "position_ids": given["position_ids"][:, -1:] + 1,
        }
    return Generation(tokens, logprobs)
