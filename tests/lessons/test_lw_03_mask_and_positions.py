"""Mask and positions are given in every forward pass (specification B2.3).

`inputs_embeds` without an attention mask gave noise; left padding beside a cache needs explicit `position_ids`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lw_toys import FAMILIES, Family, tiny_lm

from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix

QUESTIONS = [[40, 41], [50, 51, 52, 53, 54, 55, 56, 57]]
ANSWERS = [[60, 61, 62], [70]]


def no_mask(kwargs: dict[str, Any]) -> None:
    kwargs["attention_mask"] = None


def all_ones(kwargs: dict[str, Any]) -> None:
    kwargs["attention_mask"] = torch.ones_like(kwargs["attention_mask"])


def no_positions(kwargs: dict[str, Any]) -> None:
    kwargs["position_ids"] = None


def prefixes(lm: FrozenLM) -> dict[str, Prefix]:
    g = torch.Generator().manual_seed(0)
    kv = [(torch.randn(2, 2, 3, 8, generator=g), torch.randn(2, 2, 3, 8, generator=g)) for _ in range(2)]
    return {"none": Prefix(), "embeds": Prefix(embeds=torch.randn(2, 3, 32, generator=g)), "kv": Prefix(kv=kv)}


def row_zero(prefix: Prefix) -> Prefix:
    return Prefix(
        None if prefix.embeds is None else prefix.embeds[:1],
        None if prefix.kv is None else [(k[:1], v[:1]) for k, v in prefix.kv],
    )


@torch.no_grad()
def damage(lm: FrozenLM, prefix: Prefix, mistake: Callable[[dict[str, Any]], None] | None) -> float:
    """How far the padded row's log-probabilities in a batch are from the row alone, with a mistake in the batch."""
    alone = lm.answer_logprobs(row_zero(prefix), QUESTIONS[:1], ANSWERS[:1]).scores
    hook = lm.model.register_forward_pre_hook(
        lambda _, args, kwargs: mistake(kwargs) if mistake else None, with_kwargs=True
    )
    batch = lm.answer_logprobs(prefix, QUESTIONS, ANSWERS)
    hook.remove()
    return float((batch.scores[batch.row == 0] - alone).abs().max())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["none", "embeds", "kv"])
def test_padding_is_invisible_because_of_mask_and_positions(family: Family, kind: str) -> None:
    lm = tiny_lm(family)
    prefix = prefixes(lm)[kind]
    assert damage(lm, prefix, None) < 1e-5
    for mistake in (no_mask, all_ones, no_positions):
        assert damage(lm, prefix, mistake) > 0.05, f"{mistake.__name__} must show, or this test shows nothing"


@pytest.mark.parametrize("kind", ["none", "embeds", "kv"])
def test_every_forward_of_generation_has_mask_and_positions(kind: str) -> None:
    lm = tiny_lm()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    lm.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((kwargs["attention_mask"], kwargs["position_ids"])), with_kwargs=True
    )
    lm.stop_ids = set()
    lm.generate(prefixes(lm)[kind], QUESTIONS, 3)
    before = {"none": 1, "embeds": 4, "kv": 4}[kind]  # BOS, and three latents
    assert len(seen) == 3
    for step, (mask, positions) in enumerate(seen):
        assert mask.ndim == 2
        assert mask.sum(1).tolist() == [before + 2 + step, before + 8 + step]
        assert positions[:, -1].tolist() == [before + 2 + step - 1, before + 8 + step - 1]
