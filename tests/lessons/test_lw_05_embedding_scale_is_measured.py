"""The scale of embeddings is measured per token, on real text (specification B2.5).

It is neither a LayerNorm's nor the vocabulary's. Per-token magnitude carries meaning: matching each token to one global
RMS destroyed generation.
"""

from __future__ import annotations

import pytest
import torch
from lw_toys import FAMILIES, Family, tiny_lm

from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import render

TEXT = ["Ann lives in Rome.", "Bo lives in Oslo, and he is 7."]


def scaled(lm: FrozenLM, used: list[int]) -> None:
    """Tokens that no text uses get rows a hundred times as large, used ones rows of different sizes."""
    weight = lm.model.get_input_embeddings().weight
    size = torch.full((len(weight), 1), 100.0)
    size[used] = torch.linspace(0.05, 2.0, len(used))[:, None]
    with torch.no_grad():
        weight.mul_(size.to(weight.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_statistics_are_of_the_text_token_by_token(family: Family, dtype: torch.dtype) -> None:
    lm = tiny_lm(family, dtype)
    ids = [i for text in TEXT for i in lm.style.encode(text)]
    scaled(lm, sorted(set(ids)))
    with pytest.raises(RuntimeError, match="call measure"):
        _ = lm.embedding_rms
    rms = lm.measure(TEXT)
    e = lm.model.get_input_embeddings().weight[ids].float()
    torch.testing.assert_close(rms, e.square().mean(1).sqrt())
    assert torch.equal(lm.embedding_rms, rms)
    assert rms.dtype == torch.float32
    low, middle, high = torch.quantile(rms, torch.tensor([0.05, 0.5, 0.95])).tolist()
    assert low < middle < high
    assert low < high / 3, "a distribution, not one number"
    vocabulary = lm.model.get_input_embeddings().weight.float().square().mean().sqrt()
    assert float(vocabulary) > 10 * high, "the vocabulary's own scale says nothing about text"


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_read_as_given_and_one_scale_for_all_tokens_is_not_the_text(family: Family) -> None:
    lm = tiny_lm(family)
    p = render(lm.style, TEXT[0], "Where does Ann live?", "Rome")
    scaled(lm, sorted(set(p.ids)))
    text = lm.answer_logprobs(Prefix(text_ids=[p.context]), [p.question], [p.answer])
    e = lm.embed(torch.tensor([p.context]))
    replayed = lm.answer_logprobs(Prefix(embeds=e), [p.question], [p.answer])
    torch.testing.assert_close(replayed.scores, text.scores, rtol=0, atol=1e-5)
    one_scale = e / e.square().mean(-1, keepdim=True).sqrt() * e.square().mean().sqrt()
    matched = lm.answer_logprobs(Prefix(embeds=one_scale), [p.question], [p.answer])
    assert float((matched.scores - text.scores).abs().max()) > 0.05
