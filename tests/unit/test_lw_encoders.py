"""Encoders: every text gets its slots, alone or in a batch; nothing is cut in silence, no frozen weight is touched."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from lw_parts import D_Z, ENCODERS, SHARED, TEXTS, TRAINED, make_encoder, rms
from lw_toys import tiny_lm

from callbacks.errors import UserError
from latentwire.encoders.base import build_encoder
from latentwire.encoders.slots import LatentLayout
from latentwire.encoders.transformer import Transformer

each = pytest.mark.parametrize("name", ENCODERS)
trained = pytest.mark.parametrize("name", TRAINED)


# -- every encoder ----------------------------------------------------------------------------------------------------
@each
def test_a_batch_is_its_texts_and_padding_does_not_count(name: str) -> None:
    encoder = make_encoder(name)
    tokens = encoder.tokenize(TEXTS)
    z = encoder(tokens, SHARED)
    assert z.shape == (len(TEXTS), 4, D_Z)
    assert rms(z) > 1e-3
    for i, text in enumerate(TEXTS):
        torch.testing.assert_close(encoder.encode([text], SHARED)[0], z[i], rtol=1e-4, atol=1e-5)
    ids = torch.cat([tokens.ids, torch.full((len(TEXTS), 9), 7)], 1)  # ids of real tokens: the mask decides
    mask = torch.cat([tokens.mask, torch.zeros(len(TEXTS), 9, dtype=torch.bool)], 1)
    wider = replace(tokens, ids=torch.where(mask, ids, 7), mask=mask)
    torch.testing.assert_close(encoder(wider, SHARED), z, rtol=1e-4, atol=1e-5)


@each
def test_different_texts_have_different_latents(name: str) -> None:
    encoder = make_encoder(name)
    z = encoder.encode(["Ada Stone lives in Oslo.", "Ada Stone lives in Rome."], SHARED)
    assert rms(z[0] - z[1]) > 1e-3 * rms(z)


@each
def test_word_order_matters(name: str) -> None:
    encoder = make_encoder(name)
    z = encoder.encode(["Ada likes Ben", "Ben likes Ada"], LatentLayout(1))
    assert rms(z[0] - z[1]) > 1e-4 * rms(z)


@each
def test_long_texts_are_refused_or_cut_and_counted(name: str) -> None:
    refusing, counting = (
        build_encoder(partial(ENCODERS[name], max_tokens=30, overflow=o), tiny_lm(), D_Z, ["shared"])
        for o in ("refuse", "count")
    )
    with pytest.raises(UserError, match="overflow=count"):
        refusing.tokenize(TEXTS)
    tokens = counting.tokenize(TEXTS)
    over = [max(len(counting.ids(text)) - 30, 0) for text in TEXTS]
    assert tokens.cut == tuple(over)
    assert (counting.cut_texts, counting.cut_tokens) == (1, sum(over)) == (1, 21)
    assert tokens.ids.shape[1] == 30


@each
def test_an_empty_text_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="at least one token"):
        make_encoder(name).tokenize(["a", ""])


@each
def test_a_saved_state_gives_the_same_latents_and_holds_no_frozen_weight(name: str) -> None:
    lm = tiny_lm()
    encoder = make_encoder(name, lm)
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=0.3)
    torch.manual_seed(1)
    other = build_encoder(ENCODERS[name], lm, D_Z, ["shared"]).eval()
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other.encode(TEXTS, SHARED), encoder.encode(TEXTS, SHARED))
    frozen = {p.data_ptr() for p in lm.model.parameters()}
    mine = [*encoder.parameters(), *encoder.state_dict().values()]
    assert not any(t.data_ptr() in frozen for t in mine)
    assert all(p.requires_grad for p in encoder.parameters())
    assert sum(t.numel() for t in encoder.state_dict().values()) < 40_000


@trained
def test_training_moves_every_parameter_and_no_weight_of_the_model(name: str) -> None:
    lm = tiny_lm()
    before = lm.fingerprint()
    encoder = make_encoder(name, lm).train()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    for _ in range(2):  # LoRA's first matrix has gradient only once the second is not zero
        optimizer.zero_grad()
        z = encoder.encode(TEXTS[:3], SHARED)
        (z * torch.randn(z.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
        optimizer.step()
    for parameter, p in encoder.named_parameters():
        assert p.grad is not None, parameter
        assert p.grad.abs().sum() > 0, parameter
    assert lm.fingerprint() == before
    assert all(p.grad is None for p in lm.model.parameters())


@trained
def test_a_deep_copy_lives_its_own_life(name: str) -> None:
    lm = tiny_lm()
    encoder = make_encoder(name, lm)
    twin = copy.deepcopy(encoder)
    z = encoder.encode(TEXTS, SHARED)
    assert torch.equal(twin.encode(TEXTS, SHARED), z)
    with torch.no_grad():
        for p in twin.parameters():
            p.normal_()
    assert torch.equal(encoder.encode(TEXTS, SHARED), z)
    assert not torch.allclose(twin.encode(TEXTS, SHARED), z)
    assert twin.lm is encoder.lm


@trained
def test_the_number_of_slots_may_change_from_call_to_call(name: str) -> None:
    encoder = make_encoder(name)
    for slots in (1, 3, 20):
        assert encoder.encode(TEXTS, LatentLayout(slots)).shape == (len(TEXTS), slots, D_Z)


# -- parts ------------------------------------------------------------------------------------------------------------
def test_the_transformer_ignores_what_stands_in_the_padding() -> None:
    torch.manual_seed(0)
    t = Transformer(16, 2, 2).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    expected = t(x, mask)
    x[1, 3:] = torch.nan
    torch.testing.assert_close(t(x, mask), expected)
    torch.testing.assert_close(t(x[1:, :3])[0], expected[1, :3])
    assert bool((expected[1, 3:] == 0).all())


def test_bytes_are_utf8() -> None:
    encoder = make_encoder("byte")
    tokens = encoder.tokenize(["é漢🙂", "a"])
    assert bytes(tokens.ids[0].tolist()).decode() == "é漢🙂"
    assert tokens.mask.sum(1).tolist() == [9, 1]


def test_token_embeddings_keep_their_relative_magnitude() -> None:
    lm = tiny_lm()
    encoder = make_encoder("token", lm)
    table = lm.model.get_input_embeddings().weight
    assert float(rms(table.detach() * encoder.scale)) == pytest.approx(1, rel=1e-4)
    assert encoder.scale.shape == ()


# -- language model with LoRA -----------------------------------------------------------------------------------------
def test_lora_starts_as_the_frozen_model() -> None:
    lm = tiny_lm()
    with_lora, without = make_encoder("lm_lora", lm), make_encoder("lm_hidden", lm)
    without.load_state_dict({k: v for k, v in with_lora.state_dict().items() if not k.startswith("lora.")})
    torch.testing.assert_close(with_lora.encode(TEXTS, SHARED), without.encode(TEXTS, SHARED), rtol=1e-4, atol=1e-5)


def test_the_mix_is_the_weighted_sum_of_standardised_states_without_the_head() -> None:
    lm = tiny_lm()
    encoder = make_encoder("lm_hidden", lm, layers=[0, 2])
    seen = []
    encoder.bottleneck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        encoder.mix.copy_(torch.tensor([0.3, -0.5]))
    encoder.encode([TEXTS[0]], SHARED)
    head = len(lm.style.head)
    weights = torch.tensor([0.3, -0.5]).softmax(0)
    expected = torch.zeros_like(seen[0])
    for weight, layer in zip(weights, (0, 2), strict=True):
        tokens = []
        for text in TEXTS:
            ids = torch.tensor([[*lm.style.head, *lm.style.encode(text)]])
            tokens.append(lm.model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0, head:])
        every = torch.cat(tokens)
        expected += weight * ((tokens[0] - every.mean(0)) / every.std(0, correction=0))
    torch.testing.assert_close(seen[0], expected, rtol=1e-3, atol=1e-4)


def test_an_encoder_that_has_measured_nothing_is_an_error() -> None:
    encoder = build_encoder(ENCODERS["lm_hidden"], tiny_lm(), D_Z, ("shared",))
    with pytest.raises(RuntimeError, match="not fitted"):
        encoder.encode(TEXTS, SHARED)


def test_lora_sits_where_asked_and_its_dropout_follows_the_mode() -> None:
    encoder = make_encoder("lm_lora", targets=["v_proj"], lora_layers=1, lora_dropout=0.5)
    assert sorted(encoder.lora) == [
        "layers-0-self_attn-v_proj-lora_A-default-weight",
        "layers-0-self_attn-v_proj-lora_B-default-weight",
    ]
    for p in encoder.lora.parameters():
        torch.nn.init.normal_(p)
    assert torch.equal(encoder.encode(TEXTS, SHARED), encoder.encode(TEXTS, SHARED))
    encoder.train()
    assert not torch.equal(encoder.encode(TEXTS, SHARED), encoder.encode(TEXTS, SHARED))
    # layer 2 is never mixed: LoRA on it would never see a gradient
    assert all(k.startswith("layers-0-") for k in make_encoder("lm_lora", layers=[1]).lora)


def test_lora_follows_a_change_of_type() -> None:
    encoder = make_encoder("lm_lora").double()
    z = encoder.encode(TEXTS, SHARED)
    assert z.dtype == torch.float64
    assert {p.dtype for decoder in encoder._copy for p in decoder.parameters()} == {torch.float64}
    z.sum().backward()
    assert all(p.grad is not None and p.dtype == torch.float64 for p in encoder.lora.parameters())


def test_lora_is_refused_where_it_would_do_nothing_or_harm() -> None:
    with pytest.raises(UserError, match="rank=0"):
        make_encoder("lm_lora", layers=[0])
    with pytest.raises(UserError, match="targets"):
        make_encoder("lm_lora", targets=["no_such_layer"])
    with pytest.raises(UserError, match=r"encoder\.layers"):
        make_encoder("lm_hidden", layers=[3])
    with pytest.raises(UserError, match="positions"):
        make_encoder("lm_hidden", max_tokens=256)
    from peft import LoraConfig

    lm = tiny_lm()
    frozen = make_encoder("lm_hidden", lm)
    z = frozen.encode(TEXTS, SHARED)
    for _, p in lm.adapt(LoraConfig(r=2, target_modules=["q_proj"])):
        torch.nn.init.normal_(p)
    assert torch.equal(frozen.encode(TEXTS, SHARED), z)  # reads the model with its adapter off
    with pytest.raises(UserError, match="leave out adaptation"):
        make_encoder("lm_lora", lm)
