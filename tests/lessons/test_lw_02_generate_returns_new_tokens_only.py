"""Generation returns the new tokens only (specification B2.2).

`generate(inputs_embeds=…)` returns nothing else; slicing off the prompt's length gave empty strings everywhere.
"""

from __future__ import annotations

import pytest
import torch
from lw_toys import FAMILIES, Family, tiny_lm

from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import render


def bare(lm: FrozenLM, ids: list[int], new: int) -> list[int]:
    """Greedy continuation by recomputing the whole sequence for every token, without any cache."""
    start = len(ids)
    while len(ids) - start < new:
        token = int(lm.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in lm.stop_ids:
            break
        ids = [*ids, token]
    return ids[start:]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_new_tokens_and_nothing_else(family: Family) -> None:
    lm = tiny_lm(family)
    ps = [render(lm.style, c, q) for c, q in (("Ann lives in Rome.", "Where?"), ("Bo is 7.", "How old is Bo?"))]
    questions = [p.question for p in ps]
    made = lm.generate(Prefix(text_ids=[p.context for p in ps]), questions, 9)
    assert made == [bare(lm, list(p.ids), 9) for p in ps]
    # shorter than the prompt, where the old slice left nothing
    assert all(0 < len(t) < len(p.ids) for t, p in zip(made, ps, strict=True))
    assert all(lm.style.decode(t) != "" for t in made)
    latents = torch.randn(2, 4, lm.d_model, generator=torch.Generator().manual_seed(0))
    assert all(lm.generate(Prefix(embeds=latents), questions, 9))


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it() -> None:
    lm = tiny_lm()
    free = lm.generate(Prefix(), [[40, 41, 42]], 9)[0]
    at = next(i for i in range(2, 9) if free[i] not in free[:i])
    lm.stop_ids = {free[at]}
    stopped = lm.generate_scored(Prefix(), [[40, 41, 42]], 9)
    assert stopped.tokens == [free[:at]]
    assert len(stopped.logprobs[0]) == at + 1, "the stop token's log-probability counts"
