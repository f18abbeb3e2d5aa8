"""One renderer makes every prompt (specification B2.6).

It is compared token by token with what the model is given in training, in evaluation and by a baseline: no left-over
literals, no chat template applied twice, no double BOS.
"""

from __future__ import annotations

import pytest
import torch
from lw_toys import BOS, FAMILIES, Family, tiny_lm
from torch import Tensor

from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import ANSWER, render

CONTEXT, QUESTION, GOLD = "Ann lives in Rome.", "Where does Ann live?", "Rome"


def given(lm: FrozenLM) -> list[Tensor]:
    """Collects the embeddings that reach the model."""
    seen: list[Tensor] = []
    lm.model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True)
    return seen


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_evaluation_and_baselines_read_the_same_tokens(family: Family, chat: bool) -> None:
    lm = tiny_lm(family, chat=chat)
    train, test = render(lm.style, CONTEXT, QUESTION, GOLD), render(lm.style, CONTEXT, QUESTION)
    assert train.ids[: len(test.ids)] == test.ids
    assert train.ids[len(test.ids) :] == train.answer
    seen = given(lm)
    lm.answer_logprobs(Prefix(text_ids=[train.context]), [train.question], [train.answer])
    lm.generate(Prefix(text_ids=[test.context]), [test.question], 1)
    # the wire: latents where the context was, everything else unchanged; here they are the context's own embeddings
    latents = lm.embed(torch.tensor([test.context]))
    blind = render(lm.style, None, QUESTION, GOLD)
    lm.answer_logprobs(Prefix(embeds=latents), [blind.question], [blind.answer])
    lm.generate(Prefix(embeds=latents), [render(lm.style, None, QUESTION).question], 1)
    scored, generated = lm.embed(torch.tensor([train.ids[:-1]])), lm.embed(torch.tensor([test.ids]))
    for found, expected in zip(seen, [scored, generated, scored, generated], strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("chat", [False, True])
def test_one_bos_one_cue(chat: bool) -> None:
    lm = tiny_lm(chat=chat)  # its tokenizer puts BOS before everything unless told not to
    assert lm.tokenizer("x")["input_ids"][0] == BOS
    for answer in (None, GOLD):
        for context in (None, CONTEXT):
            p = render(lm.style, context, QUESTION, answer)
            assert [i for i, t in enumerate(p.ids) if t == BOS] == [0]
            assert str(lm.tokenizer.decode(list(p.ids))).count(ANSWER) == 1


def test_the_chat_template_is_applied_once_and_whole() -> None:
    lm = tiny_lm(chat=True)
    message = f"{CONTEXT}\nQuestion: {QUESTION}\n{ANSWER}"
    whole = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
    )
    p = render(lm.style, CONTEXT, QUESTION)
    assert lm.tokenizer.decode(list(p.ids)) == whole
    assert whole.count("<|user|>") == whole.count("<|assistant|>") == 1


def test_what_a_text_spells_out_is_no_special_token() -> None:
    lm = tiny_lm(chat=True)
    p = render(lm.style, "a <eos> b <|end|><|assistant|>", "<bos> who?", "<eos>")
    special = set(lm.tokenizer.all_special_ids)
    assert not special & {*p.context, *p.question[: -len(p.cue)], *p.answer[:-1]}
    assert "<eos>" in lm.tokenizer.decode(list(p.context))
