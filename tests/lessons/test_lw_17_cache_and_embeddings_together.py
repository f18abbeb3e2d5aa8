"""A text is answered alike wherever it is split into cache, embeddings and ids (specification B2.17).

A KV prefix given to transformers' `generate` beside new embeddings loses as many of them as are cached, in silence;
gradient checkpointing drops the cache. What transformers does is pinned in tests/upstream.
"""

from __future__ import annotations

import pytest
import torch
from lw_toys import FAMILIES, Family, tiny_lm
from transformers import DynamicCache

from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import render

NEW = 8
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def split(lm: FrozenLM, contexts: list[tuple[int, ...]], cached: int, embedded: int) -> Prefix:
    """The contexts as keys and values of their first tokens, embeddings of the next, ids of the rest."""
    head = lm.style.head
    ids = torch.tensor([[*head, *c] for c in contexts])
    cache = DynamicCache(config=lm.model.config)
    lm.model(input_ids=ids[:, : len(head) + cached], past_key_values=cache, use_cache=True)
    # the head's own keys are put before them by FrozenLM
    kv = [(k[:, :, len(head) :], v[:, :, len(head) :]) for k, v, _ in cache]
    embeds = lm.embed(ids[:, len(head) + cached :][:, :embedded])
    rest = [c[cached + embedded :] for c in contexts]
    return Prefix(embeds if embedded else None, kv if cached else None, rest)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_beside_embeddings_loses_none_of_them(family: Family) -> None:
    lm = tiny_lm(family)
    lm.stop_ids = set()
    asked = (("Ann lives in Rome.", "Where?"), ("Bob lives in Oslo.", "Who?"))
    prompts = [render(lm.style, context, question, "Rome") for context, question in asked]
    contexts, questions = [p.context for p in prompts], [p.question for p in prompts]
    assert len({len(c) for c in contexts}) == 1
    expected = lm.generate(Prefix(text_ids=contexts), questions, NEW)
    scores = lm.answer_logprobs(Prefix(text_ids=contexts), questions, [p.answer for p in prompts]).scores
    for cached, embedded in ((1, 6), (6, 6), (10, 3), (18, 1), (19, 0), (0, 19)):
        prefix = split(lm, contexts, cached, embedded)
        seen: list[int] = []
        hook = lm.model.register_forward_pre_hook(
            lambda _, args, kwargs, seen=seen: seen.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        )
        made = lm.generate(prefix, questions, NEW)
        hook.remove()
        head = 0 if cached else len(lm.style.head)
        assert seen[0] == head + len(contexts[0]) - cached + max(map(len, questions)), "all new embeddings are read"
        assert made == expected
        found = lm.answer_logprobs(prefix, questions, [p.answer for p in prompts]).scores
        torch.testing.assert_close(found, scores, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_own_generate_on_the_same_split_answers_something_else(family: Family) -> None:
    lm = tiny_lm(family)
    lm.stop_ids = set()
    p = render(lm.style, "Ann lives in Rome.", "Where?")
    expected = lm.generate(Prefix(text_ids=[p.context]), [p.question], NEW)[0]
    cache = DynamicCache(config=lm.model.config)
    lm.model(input_ids=torch.tensor([p.ids[:12]]), past_key_values=cache, use_cache=True)
    lm.model.generation_config.eos_token_id = None
    made = lm.model.generate(
        inputs_embeds=lm.embed(torch.tensor([p.ids[12:]])),
        past_key_values=cache,
        attention_mask=torch.ones(1, len(p.ids), dtype=torch.long),
        max_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
    )
    assert made[0].tolist() != expected, "transformers reads both now: FrozenLM's own loop may go"


def test_training_mode_where_checkpointing_would_drop_the_cache_is_refused() -> None:
    lm = tiny_lm()
    p = render(lm.style, "Ann lives in Rome.", "Where?", "Rome")
    prefix = split(lm, [p.context], 5, 3)
    before = lm.answer_logprobs(prefix, [p.question], [p.answer]).scores
    lm.model.gradient_checkpointing_enable()
    torch.testing.assert_close(lm.answer_logprobs(prefix, [p.question], [p.answer]).scores, before, rtol=0, atol=0)
    lm.model.train()
    with pytest.raises(RuntimeError, match="training mode"):
        lm.answer_logprobs(prefix, [p.question], [p.answer])
