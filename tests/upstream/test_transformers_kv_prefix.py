"""What `generate` of transformers 5.23 does with embeddings beside a cache, and gradient checkpointing with a cache.

`FrozenLM` has its own greedy loop because of this. A test that fails after an upgrade says what has changed.
"""

from __future__ import annotations

import pytest
import torch
from lw_toys import FAMILIES, Family, tiny_model
from torch import Tensor
from transformers import DynamicCache

PROMPT, NEW = 9, 6
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


class Case:
    """A model, a prompt of nine tokens, its greedy continuation, and what reaches the decoder in the first step."""

    def __init__(self, family: Family) -> None:
        self.model = tiny_model(family).eval()
        self.model.generation_config.eos_token_id = None
        self.ids = torch.randint(6, 262, (1, PROMPT), generator=torch.Generator().manual_seed(0))
        self.embeds = self.model.get_input_embeddings()(self.ids)
        self.expected = self.generate(input_ids=self.ids)[0, PROMPT:].tolist()
        self.seen: list[Tensor] = []
        self.model.model.register_forward_pre_hook(
            lambda _, args, kwargs: self.seen.append(kwargs.get("inputs_embeds")), with_kwargs=True
        )

    def cache(self, length: int) -> DynamicCache:
        cache = DynamicCache(config=self.model.config)
        self.model(input_ids=self.ids[:, :length], past_key_values=cache, use_cache=True)
        return cache

    def generate(self, **inputs: object) -> Tensor:
        self.seen = []
        mask = torch.ones(1, PROMPT, dtype=torch.long)
        return self.model.generate(**inputs, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=0)


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_embeddings_alone_give_new_tokens_only(case: Case) -> None:
    assert case.generate(inputs_embeds=case.embeds)[0].tolist() == case.expected
    assert case.generate(input_ids=case.ids).shape[1] == PROMPT + NEW, "with ids the prompt comes back, too"


@pytest.mark.parametrize(("cached", "read"), [(1, 7), (3, 3), (4, 1)])
def test_new_embeddings_beside_a_cache_lose_as_many_as_are_cached(case: Case, cached: int, read: int) -> None:
    """It takes the embeddings for the whole sequence and reads their last `new - cached`. No error, no warning."""
    new = case.embeds[:, cached:]
    found = case.generate(inputs_embeds=new, past_key_values=case.cache(cached))[0].tolist()
    assert case.seen[0].shape[1] == read == new.shape[1] - cached
    assert torch.equal(case.seen[0], new[:, -read:])
    assert found != case.expected


def test_with_a_cache_longer_than_the_embeddings_the_first_ones_are_lost_or_all(case: Case) -> None:
    new = case.embeds[:, 5:]
    case.generate(inputs_embeds=new, past_key_values=case.cache(5))
    assert torch.equal(case.seen[0], new[:, 1:]), "new - cached = -1 is taken as an index"
    with pytest.raises(RuntimeError, match="cannot reshape tensor of 0 elements"):
        case.generate(inputs_embeds=case.embeds[:, 7:], past_key_values=case.cache(7))


@pytest.mark.parametrize("cached", [1, 3, 5, 8])
def test_a_cache_works_where_the_embeddings_of_the_cached_part_are_given_again(case: Case, cached: int) -> None:
    """Useless for a trained KV prefix, which no embeddings belong to."""
    found = case.generate(inputs_embeds=case.embeds, past_key_values=case.cache(cached))
    assert case.seen[0].shape[1] == PROMPT - cached
    assert found[0].tolist() == case.expected


def test_gradient_checkpointing_drops_the_cache_in_training_mode_only(case: Case) -> None:
    model = case.model
    expected = model(input_ids=case.ids[:, 4:], past_key_values=case.cache(4)).logits
    kept = case.cache(4)
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(
        model(input_ids=case.ids[:, 4:], past_key_values=case.cache(4)).logits, expected, rtol=0, atol=0
    )
    model.train()
    assert case.cache(4).get_seq_length() == 0, "nothing is written"
    # the mask is still made for nine columns, so a given prefix is an error and not silence
    with pytest.raises(RuntimeError, match="must match the size"):
        model(input_ids=case.ids[:, 4:], past_key_values=kept)
