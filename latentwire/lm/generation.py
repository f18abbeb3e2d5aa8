"""Greedy generation, token by token, with the time that it takes.

The loop is written out as that of transformers loses embeddings that are given beside a cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from callbacks.step.ranks import sum_over_ranks
from latentwire.lm.results import Generation


class Chooser(Protocol):
    """Chooses the tokens of a batch; `latentwire.lm.decoding.Run` is one."""

    def choose(self, scores: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities and ids, (B,) each, of what is taken after `step` tokens; scores are (B, V)."""
        ...

    def before(self, step: int, cache: Any) -> None:
        """Change the cache, in place, before the token after `step` others is computed."""
        ...


@torch.no_grad()
def greedy(
    model: Any,
    embed: Callable[[Tensor], Tensor],
    stop_ids: Collection[int],
    given: dict[str, Any],
    batch: int,
    max_new_tokens: int,
    together: bool = False,
    chooser: Chooser | None = None,
) -> Generation:
    """Continue the inputs of a batch, as the model's forward takes them, greedily until a stop token.

    Args:
        model: the model.
        embed: ids to the model's input embeddings.
        stop_ids: ids that end an answer.
        given: embeddings, mask, positions and cache of what is read; a new cache is added where there is none.
        batch: number of rows.
        max_new_tokens: number of new tokens at most, 1 or more.
        together: whether all ranks go on until the last one has ended, as a model in pieces needs them all.
        chooser: what chooses tokens in place of the likeliest, and changes the cache before every further one; None:
            greedy.

    Raises:
        ValueError: no new token is allowed.
    """
    if max_new_tokens < 1:
        raise ValueError("max_new_tokens must be at least 1")
    start = prefilled = time.perf_counter()
    if given["past_key_values"] is None:
        given["past_key_values"] = DynamicCache(config=model.config)
    tokens: list[list[int]] = [[] for _ in range(batch)]
    logprobs: list[list[float]] = [[] for _ in range(batch)]
    running = [True] * batch
    for step in range(max_new_tokens):
        out = model(**given, use_cache=True, logits_to_keep=1)
        scores = out.logits[:, -1].float().log_softmax(-1)
        best, chosen = scores.max(-1) if chooser is None else chooser.choose(scores, step)
        found = list(zip(chosen.tolist(), best.tolist(), strict=True))  # waits for an accelerator
        if step == 0:
            prefilled = time.perf_counter()
        for i, (token, score) in enumerate(found):
            if running[i]:
                logprobs[i].append(score)
                running[i] = token not in stop_ids
                if running[i]:
                    tokens[i].append(token)
        goes_on = any(running)
        if together:
            goes_on = bool(sum_over_ranks(torch.tensor(float(goes_on), device=chosen.device)))
        if not goes_on or step + 1 == max_new_tokens:
            break
        if chooser is not None:
            chooser.before(step + 1, given["past_key_values"])
        mask = given["attention_mask"]
        given |= {
            "inputs_embeds": embed(chosen[:, None]),
            "attention_mask": torch.cat([mask, mask.new_ones(batch, 1)], 1),
            "position_ids": given["position_ids"][:, -1:] + 1,
        }
    return Generation(tokens, logprobs, prefilled - start, time.perf_counter() - prefilled)
