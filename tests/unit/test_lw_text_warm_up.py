"""Warm-up between text and latents: what stands where text is read, and that it is drawn, decays and resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lw_runs import config, fit, history, prepare
from lw_toys import FAMILIES, Family, tiny_lm
from test_lw_training_noise import SHORT, equal, resumed, weights
from torch import Tensor

from callbacks.errors import UserError
from latentwire.adapters.linear import LinearAdapter
from latentwire.injectors.coprocessor import Coprocessor
from latentwire.injectors.deep_prefix import DeepPrefix
from latentwire.injectors.latent_adapters import LatentAdapters
from latentwire.injectors.sized_prefix import SizedPrefix
from latentwire.injectors.soft_prefix import SoftPrefix
from latentwire.lm.layout import Prefix
from latentwire.train.beforehand import refuse
from latentwire.train.text_warm_up import TextWarmUp, among

TEXTS = ["Ada lives in Oslo.", "Ben likes plums."]
WARM = ["curriculum=text_warm_up", "loader.text_warm_up.steps=3"]
PLAIN = ["objective=[answer_ce,token_alignment]"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [SoftPrefix, DeepPrefix, SizedPrefix, Coprocessor])
def test_with_a_slot_for_every_token_text_is_read_as_the_text_that_it_is(kind: Any, family: Family) -> None:
    lm = tiny_lm(family)
    injector = kind(8, lm, TEXTS, LinearAdapter)
    ids = torch.tensor([lm.style.encode(TEXTS[0])])
    found = injector.text_prefix(ids, torch.ones_like(ids, dtype=torch.bool), [ids.shape[1]])
    question, answer = [[50, 51]], [[60, 61, 2]]
    text = lm.answer_logprobs(Prefix(text_ids=ids.tolist()), question, answer).scores
    torch.testing.assert_close(lm.answer_logprobs(found, question, answer).scores, text, rtol=0, atol=2e-4)
    held = [found.embeds] if found.embeds is not None else [x for pair in found.kv or () for x in pair]
    assert not any(x.requires_grad for x in held)


def test_a_slot_is_read_as_the_mean_of_its_part_whatever_stands_behind_a_shorter_text() -> None:
    lm = tiny_lm()
    injector = SoftPrefix(8, lm, TEXTS, LinearAdapter)
    rows = [list(lm.style.encode(t)) for t in TEXTS]
    width = max(map(len, rows))
    ids = torch.tensor([r + [77] * (width - len(r)) for r in rows])
    mask = torch.tensor([[i < len(r) for i in range(width)] for r in rows])
    found = injector.text_prefix(ids, mask, [2, 0, 1]).embeds
    assert found is not None
    for b, r in enumerate(rows):
        e, half = lm.embed(torch.tensor(r)), len(r) // 2
        assert len(r) % 2 == 0
        literal = torch.stack([e[:half].mean(0), e[half:].mean(0), e.mean(0)])
        torch.testing.assert_close(found[b], literal, rtol=0, atol=1e-5)


def test_places_are_those_of_the_text_or_of_the_latents_and_gradients_are_of_latents_alone() -> None:
    taken = torch.tensor([[True, False, True], [False, False, False]])
    own, text = torch.randn(3, 3, 4, requires_grad=True), torch.randn(2, 3, 4)
    mixed = among(Prefix(embeds=own), Prefix(embeds=text), taken).embeds
    assert mixed is not None
    for b in range(3):
        for m in range(3):
            assert torch.equal(mixed[b, m], text[b, m] if b < 2 and taken[b, m] else own[b, m])
    mixed.sum().backward()
    assert torch.equal(own.grad[:2, :, 0] == 0, taken)  # type: ignore[index]
    assert bool((own.grad[2] == 1).all())  # type: ignore[index]
    keys, values, other = torch.randn(2, 2, 3, 5), torch.randn(2, 2, 3, 5), torch.randn(2, 2, 3, 5)
    ((k, v),) = among(Prefix(kv=[(keys, values)]), Prefix(kv=[(other, other + 1)]), taken).kv or []
    assert torch.equal(k[0, :, 1], keys[0, :, 1])
    assert torch.equal(k[0, :, 2], other[0, :, 2])
    assert torch.equal(v[0, :, 0], other[0, :, 0] + 1)
    with pytest.raises(RuntimeError):
        among(Prefix(embeds=own), Prefix(kv=[(keys, values)]), taken)


def test_the_probability_falls_to_its_tail_and_stays_there() -> None:
    law = TextWarmUp(first=0.9, tail=0.1, steps=8, start=2)
    assert [law.share(t) for t in (0, 2, 6, 10, 10**6)] == pytest.approx([0.9, 0.9, 0.5, 0.1, 0.1])
    names = [(0, n, 0) for n in range(400)]
    for t in (0, 6, 10):
        taken = law.taken(names, 7, seed=1, t=t)
        assert taken.shape == (400, 7)
        assert float(taken.float().mean()) == pytest.approx(law.share(t), abs=0.03)
        assert torch.equal(taken[5:7], law.taken(names[5:7], 7, seed=1, t=t))  # no neighbour matters
    whole = TextWarmUp(first=0.5, tail=0.5, by="message").taken(names, 7, 1, 0)
    assert bool((whole.all(1) | ~whole.any(1)).all())
    assert float(whole[:, 0].float().mean()) == pytest.approx(0.5, abs=0.07)
    steps = [TextWarmUp(first=0.5, tail=0.5, by="batch").taken(names, 7, 1, t) for t in range(200)]
    assert all(bool(x.all()) or not bool(x.any()) for x in steps)
    assert np.mean([bool(x.any()) for x in steps]) == pytest.approx(0.5, abs=0.12)
    with pytest.raises(UserError, match=r"tail 0\.9 above first 0\.1"):
        TextWarmUp(first=0.1, tail=0.9)


@pytest.mark.parametrize("more", [["injector=deep_prefix"], ["injector=soft_prefix", "loader.text_warm_up.by=message"]])
def test_a_warm_up_resumes_in_its_middle_and_parts_are_the_whole(more: list[str], tmp_path: Path) -> None:
    whole = weights(tmp_path, *WARM, *more)
    assert equal(whole, resumed(tmp_path, *WARM, *more))
    parts = weights(tmp_path, *WARM, *more, "loader.accumulate=3")  # the same draws, other roundings
    for name, x in whole.items():
        torch.testing.assert_close(parts[name], x, rtol=0, atol=1e-4, msg=name)


def test_no_text_is_no_warm_up_and_alignment_weighs_more_as_long_as_there_is_some(tmp_path: Path) -> None:
    off = ["loader.text_warm_up.first=0.0", "loader.text_warm_up.tail=0.0", "stages.0.weights=null"]
    plain = weights(tmp_path, *PLAIN)
    assert equal(plain, weights(tmp_path, *WARM, *off))
    assert not equal(plain, weights(tmp_path, *WARM, "stages.0.weights=null"))
    cfg = config(tmp_path, *SHORT, *WARM, "callbacks.diagnostics.every=1", runs="warm")
    fit(cfg)
    assert history(cfg, "train/text_share") == pytest.approx([0.9, 0.9 - 0.85 / 3, 0.9 - 1.7 / 3, 0.05])
    assert history(cfg, "weight/token_alignment") == pytest.approx([1.0, 0.7, 0.4, 0.1])


def test_latents_alone_are_validated_and_continued(tmp_path: Path) -> None:
    parts = prepare(config(tmp_path, *SHORT, *WARM, "objective=[answer_ce,token_alignment,continuation]",
                           "+stages.0.weights.continuation=1.0", "loader.text_warm_up.by=slot"))  # fmt: skip
    module: Any = parts.module
    batch: Any = parts.train.dataset.__getitems__([(i, 0) for i in range(3)])  # type: ignore[attr-defined]
    layout, values = module.wire.layout, module.wire.latents(batch.tokens).values
    name = "tiny_llama"
    own = module.wire.prefix(values, name)
    found = module.noise.prefixes({name: own}, module.wire.injectors, batch, layout, 0)[name]
    ids, mask = batch.context[name]
    text = module.wire.injectors[name].text_prefix(ids, mask, layout.counts(name))
    different = (found.kv[0][1] != own.kv[0][1]).any(-1).any(1)
    assert not bool(different[3:].any())
    assert 0 < int(different[:3].sum()) < 9 or bool(different[:3].all())
    chosen: Tensor = different[:3, None, :, None].expand_as(text.kv[0][1])
    assert torch.equal(found.kv[0][1][:3][chosen], text.kv[0][1][chosen])


def test_latents_that_stand_where_no_text_could_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    injector = LatentAdapters(8, tiny_lm(), TEXTS, LinearAdapter)
    with pytest.raises(RuntimeError):
        injector.text_prefix(torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool), [1])
    with pytest.raises(UserError, match=r"loader\.text_warm_up"):
        refuse(config(tmp_path, *WARM, "injector=latent_adapters", "injector.heads=2"))
    nested = "+wire.nested={_target_:latentwire.train.NestedBudgets,budgets:[2]}"
    with pytest.raises(UserError, match="a prefix of slots stands for the whole text"):
        refuse(config(tmp_path, *WARM, nested))
    refuse(config(tmp_path, *WARM))
