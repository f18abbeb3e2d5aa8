"""Encoders: every text gets its slots, alone or in a batch; nothing is cut in silence, no frozen weight is touched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from lw_toys import tiny_lm
from torch import Tensor

from callbacks.errors import UserError
from latentwire.encoders.base import Encoder, build_encoder
from latentwire.encoders.bottleneck import Bottleneck
from latentwire.encoders.byte import ByteEncoder
from latentwire.encoders.lm_lora import LMLoRAEncoder
from latentwire.encoders.pca import PCAEncoder
from latentwire.encoders.pooling import ChunkMean, CrossAttention
from latentwire.encoders.slots import LatentLayout
from latentwire.encoders.token import TokenEncoder
from latentwire.encoders.transformer import Transformer
from latentwire.lm.frozen import FrozenLM

CONF = Path(__file__).parents[2] / "conf" / "latentwire"
TEXTS = ["Ada Stone lives in Oslo.", "Ben works.", "The favourite food of Ada is rice, Ben likes plums.", "é漢🙂"]
D_Z = 6
SHARED = LatentLayout(4)
SMALL = dict(width=16, refiner_layers=1, heads=2)
ENCODERS: dict[str, Callable[..., Encoder]] = {
    "token": partial(TokenEncoder, pooling=ChunkMean, layers=1, **SMALL),
    "lm_hidden": partial(LMLoRAEncoder, pooling=ChunkMean, rank=0, max_tokens=200, **SMALL),
    "lm_lora": partial(LMLoRAEncoder, pooling=ChunkMean, rank=2, max_tokens=200, **SMALL),
    "byte": partial(ByteEncoder, pooling=partial(CrossAttention, heads=2), layers=1, **SMALL),
    "pca": partial(PCAEncoder, chunk=16),
}
TRAINED = [name for name in ENCODERS if name != "pca"]
each = pytest.mark.parametrize("name", ENCODERS)
trained = pytest.mark.parametrize("name", TRAINED)


def make(name: str, lm: FrozenLM | None = None, slices: tuple[str, ...] = ("shared",), **settings: object) -> Encoder:
    torch.manual_seed(0)
    encoder = build_encoder(partial(ENCODERS[name], **settings), lm or tiny_lm(), D_Z, slices)
    if isinstance(encoder, PCAEncoder | LMLoRAEncoder):
        encoder.fit(TEXTS, SHARED)
    return encoder.eval()


def rms(z: Tensor) -> Tensor:
    return z.pow(2).mean().sqrt()


# -- every encoder ----------------------------------------------------------------------------------------------------
@each
def test_a_batch_is_its_texts_and_padding_does_not_count(name: str) -> None:
    encoder = make(name)
    tokens = encoder.tokenize(TEXTS)
    z = encoder(tokens, SHARED)
    assert z.shape == (len(TEXTS), 4, D_Z)
    assert rms(z) > 1e-3
    for i, text in enumerate(TEXTS):
        torch.testing.assert_close(encoder.encode([text], SHARED)[0], z[i], rtol=1e-4, atol=1e-5)
    wider = copy.copy(tokens)
    ids = torch.cat([tokens.ids, torch.full((len(TEXTS), 9), 7)], 1)  # ids of real tokens: the mask decides
    mask = torch.cat([tokens.mask, torch.zeros(len(TEXTS), 9, dtype=torch.bool)], 1)
    wider = type(tokens)(torch.where(mask, ids, 7), mask, tokens.cut)
    torch.testing.assert_close(encoder(wider, SHARED), z, rtol=1e-4, atol=1e-5)


@each
def test_different_texts_have_different_latents(name: str) -> None:
    encoder = make(name)
    z = encoder.encode(["Ada Stone lives in Oslo.", "Ada Stone lives in Rome."], SHARED)
    assert rms(z[0] - z[1]) > 1e-3 * rms(z)


@each
def test_word_order_matters(name: str) -> None:
    encoder = make(name)
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
        make(name).tokenize(["a", ""])


@each
def test_a_saved_state_gives_the_same_latents_and_holds_no_frozen_weight(name: str) -> None:
    lm = tiny_lm()
    encoder = make(name, lm)
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
    encoder = make(name, lm).train()
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
    encoder = make(name, lm)
    twin = copy.deepcopy(encoder)
    z = encoder.encode(TEXTS, SHARED)
    assert torch.equal(twin.encode(TEXTS, SHARED), z)
    with torch.no_grad():
        for p in twin.parameters():
            p.normal_()
    assert torch.equal(encoder.encode(TEXTS, SHARED), z)
    assert not torch.allclose(twin.encode(TEXTS, SHARED), z)
    assert getattr(twin, "lm", lm) is lm


@trained
def test_the_number_of_slots_may_change_from_call_to_call(name: str) -> None:
    encoder = make(name)
    for slots in (1, 3, 20):
        assert encoder.encode(TEXTS, LatentLayout(slots)).shape == (len(TEXTS), slots, D_Z)


# -- slices -----------------------------------------------------------------------------------------------------------
LAYOUT = LatentLayout(3, {"a": 2, "b": 1})


@trained
def test_private_slots_belong_to_their_model(name: str) -> None:
    encoder = make(name, slices=("shared", "a", "b"))
    z = encoder.encode(TEXTS, LAYOUT)
    assert z.shape == (len(TEXTS), 6, D_Z)
    assert not torch.allclose(z[:, 3], z[:, 0], atol=1e-3)
    for p in encoder.parameters():
        p.grad = None
    LAYOUT.read(encoder.encode(TEXTS, LAYOUT), "a").sum().backward()
    outputs = encoder.bottleneck.outputs
    assert [o.weight.grad is not None and bool(o.weight.grad.abs().sum() > 0) for o in outputs] == [True, True, False]


def test_a_layout_names_who_reads_what() -> None:
    assert (LAYOUT.slots, LAYOUT.parts) == (6, [("shared", 3), ("a", 2), ("b", 1)])
    assert (LAYOUT.indices("a"), LAYOUT.indices("b")) == ([0, 1, 2, 3, 4], [0, 1, 2, 5])
    z = torch.arange(6.0).view(1, 6, 1)
    assert LAYOUT.read(z, "b").flatten().tolist() == [0, 1, 2, 5]
    assert LatentLayout(2).indices("anything") == [0, 1]
    assert LAYOUT.with_shared(1).indices("b") == [0, 3]


def test_a_model_that_came_later_reads_the_shared_slots_of_the_same_messages() -> None:
    later = LatentLayout(3, {"a": 2, "b": 1, "new": 0})
    assert later.indices("new") == [0, 1, 2]
    assert later.identity() == LAYOUT.identity()
    with pytest.raises(UserError, match=r"private\.new=0"):
        LAYOUT.indices("new")


@pytest.mark.parametrize("wrong", [(0, {}), (-1, {"a": 2}), (2, {"shared": 1}), (2, {"a": -1})])
def test_impossible_layouts_are_refused(wrong) -> None:
    with pytest.raises(UserError):
        LatentLayout(*wrong)


def test_unknown_slices_are_refused() -> None:
    with pytest.raises(UserError, match="a selection of"):
        make("byte", slices=("shared", "a")).encode(TEXTS, LAYOUT)
    with pytest.raises(UserError, match="in this order"):
        make("byte", slices=("shared", "b", "a")).encode(TEXTS, LAYOUT)
    with pytest.raises(UserError, match="no slot to read"):
        LatentLayout(0, {"a": 1, "b": 0}).indices("b")


def test_the_refiner_lets_slots_see_each_other() -> None:
    def changed(layers: int) -> bool:
        torch.manual_seed(0)
        b = Bottleneck(4, D_Z, ["shared"], ChunkMean, 16, layers, 2, 0.0)
        x, mask = torch.randn(1, 4, 4), torch.ones(1, 4, dtype=torch.bool)
        y = x.clone()
        y[:, 3] += 1
        return not torch.allclose(b(x, mask, LatentLayout(4))[:, 0], b(y, mask, LatentLayout(4))[:, 0])

    assert [changed(0), changed(1)] == [False, True]


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
    encoder = make("byte")
    tokens = encoder.tokenize(["é漢🙂", "a"])
    assert bytes(tokens.ids[0].tolist()).decode() == "é漢🙂"
    assert tokens.mask.sum(1).tolist() == [9, 1]


def test_token_embeddings_keep_their_relative_magnitude() -> None:
    lm = tiny_lm()
    encoder = make("token", lm)
    table = lm.model.get_input_embeddings().weight
    assert float(rms(table.detach() * encoder.scale)) == pytest.approx(1, rel=1e-4)
    assert encoder.scale.shape == ()


# -- language model with LoRA -----------------------------------------------------------------------------------------
def test_lora_starts_as_the_frozen_model() -> None:
    lm = tiny_lm()
    with_lora, without = make("lm_lora", lm), make("lm_hidden", lm)
    without.load_state_dict({k: v for k, v in with_lora.state_dict().items() if not k.startswith("lora.")})
    torch.testing.assert_close(with_lora.encode(TEXTS, SHARED), without.encode(TEXTS, SHARED), rtol=1e-4, atol=1e-5)


def test_the_mix_is_the_weighted_sum_of_standardised_states_without_the_head() -> None:
    lm = tiny_lm()
    encoder = make("lm_hidden", lm, layers=[0, 2])
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
    encoder = make("lm_lora", targets=["v_proj"], lora_layers=1, lora_dropout=0.5)
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
    assert all(k.startswith("layers-0-") for k in make("lm_lora", layers=[1]).lora)


def test_lora_follows_a_change_of_type() -> None:
    encoder = make("lm_lora").double()
    z = encoder.encode(TEXTS, SHARED)
    assert z.dtype == torch.float64
    assert {p.dtype for decoder in encoder._copy for p in decoder.parameters()} == {torch.float64}
    z.sum().backward()
    assert all(p.grad is not None and p.dtype == torch.float64 for p in encoder.lora.parameters())


def test_lora_is_refused_where_it_would_do_nothing_or_harm() -> None:
    with pytest.raises(UserError, match="rank=0"):
        make("lm_lora", layers=[0])
    with pytest.raises(UserError, match="targets"):
        make("lm_lora", targets=["no_such_layer"])
    with pytest.raises(UserError, match="encoder layers"):
        make("lm_hidden", layers=[3])
    with pytest.raises(UserError, match="positions"):
        make("lm_hidden", max_tokens=256)
    from peft import LoraConfig

    lm = tiny_lm()
    frozen = make("lm_hidden", lm)
    z = frozen.encode(TEXTS, SHARED)
    for _, p in lm.adapt(LoraConfig(r=2, target_modules=["q_proj"])):
        torch.nn.init.normal_(p)
    assert torch.equal(frozen.encode(TEXTS, SHARED), z)  # reads the model with its adapter off
    with pytest.raises(UserError, match="build the encoder first"):
        make("lm_lora", lm)


# -- PCA --------------------------------------------------------------------------------------------------------------
def test_pca_is_the_projection_on_the_first_singular_vectors() -> None:
    lm = tiny_lm()
    encoder = PCAEncoder(lm, d_z=5, chunk=1)
    texts = [text for text in TEXTS if text.isascii()]
    layout = LatentLayout(60)
    rows = torch.cat([lm.embed(torch.tensor(lm.style.encode(t))) for t in texts])
    # 60 slots for shorter texts: tokens recur, which weighs them
    start = [torch.arange(60) * len(lm.style.encode(t)) // 60 for t in texts]
    rows = torch.cat([lm.embed(torch.tensor(lm.style.encode(t)))[s] for t, s in zip(texts, start, strict=True)])
    share = encoder.fit(texts, layout)
    u, s, _ = torch.linalg.svd((rows - rows.mean(0)).double(), full_matrices=False)
    assert share == pytest.approx(float(s[:5].pow(2).sum() / s.pow(2).sum()), rel=1e-4)
    z = encoder.encode(texts, layout).flatten(0, 1).double() * encoder.scale
    torch.testing.assert_close(z.abs(), (u * s)[:, :5].abs(), rtol=1e-3, atol=1e-3)
    assert encoder.scale == pytest.approx(float(rms(rows)), rel=1e-4)


def test_pca_with_all_components_loses_nothing() -> None:
    lm = tiny_lm()
    texts = [f"{word} number {i} of the text" for i in range(40) for word in ("one", "another")]
    encoder = PCAEncoder(lm, d_z=64, chunk=2)
    assert encoder.fit(texts, LatentLayout(16)) == pytest.approx(1, abs=1e-4)
    tokens = encoder.tokenize(texts[::9])
    lengths = tokens.mask.sum(1)
    for slots in (16, 40):
        back = encoder.reconstruct(encoder(tokens, LatentLayout(slots)), lengths)
        expected = lm.embed(tokens.ids).masked_fill(~tokens.mask.unsqueeze(2), 0.0)
        torch.testing.assert_close(back, expected, rtol=1e-3, atol=1e-3)


def test_pca_of_few_long_chunks_agrees_with_that_of_many() -> None:
    lm = tiny_lm()
    encoder, twice = PCAEncoder(lm, d_z=3, chunk=4), PCAEncoder(lm, d_z=3, chunk=4)
    texts = ["Ada Stone lives in Oslo!", "Ben Hale works as a baker"]
    encoder.fit(texts, LatentLayout(7))  # 14 chunks of 128 numbers: Gram matrix
    twice.fit(texts * 20, LatentLayout(7))  # the same chunks, 20 times: covariance
    torch.testing.assert_close(
        encoder.encode(texts, LatentLayout(7)), twice.encode(texts, LatentLayout(7)), rtol=1e-3, atol=1e-3
    )


def test_pca_refuses_what_it_cannot_do() -> None:
    lm = tiny_lm()
    encoder = PCAEncoder(lm, d_z=3, chunk=4)
    with pytest.raises(UserError, match="call fit"):
        encoder.encode(TEXTS, SHARED)
    with pytest.raises(UserError, match="more than d_z"):
        encoder.fit(["abc"], LatentLayout(1))
    with pytest.raises(UserError, match=r"encoder\.chunk=13"):
        _fitted(lm).encode(TEXTS, SHARED)
    with pytest.raises(UserError, match="shared slots only"):
        make("pca", lm).encode(TEXTS, LAYOUT)
    with pytest.raises(UserError, match="d_z at most"):
        PCAEncoder(lm, d_z=33, chunk=1)


def _fitted(lm: FrozenLM) -> PCAEncoder:
    encoder = PCAEncoder(lm, d_z=3, chunk=4)
    encoder.fit(TEXTS, LatentLayout(16))
    return encoder


# -- configuration ----------------------------------------------------------------------------------------------------
def parts() -> list[str]:
    groups = ("encoder", "pooling", "adapter", "injector", "codec")
    return [f"{group}/{path.stem}" for group in groups for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.parametrize("choice", parts())
def test_every_configuration_builds_its_part(choice: str) -> None:
    from suite.config.check import check
    from suite.config.instantiate import build_node

    group = choice.split("/")[0]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(choice)
    check(cfg)
    factory = build_node(cfg[group])
    lm = tiny_lm()
    if group == "encoder":
        encoder = build_encoder(partial(factory, max_tokens=128), lm, 32, ["shared", "a"])
        if isinstance(encoder, PCAEncoder):
            encoder.fit([f"{t} {i}" for t in TEXTS for i in range(9)], LatentLayout(16))
        if isinstance(encoder, LMLoRAEncoder):
            encoder.fit(TEXTS, LatentLayout(16))
        assert encoder.encode(TEXTS, LatentLayout(16)).shape == (len(TEXTS), 16, 32)
    elif group == "pooling":
        assert factory(d=32, slices=2)(torch.randn(1, 9, 32), torch.ones(1, 9, dtype=torch.bool), [2, 1]).shape == (
            1,
            3,
            32,
        )
    elif group == "adapter":
        adapter = factory(d_z=32, d_out=32, target=0.1)
        adapter.calibrate(torch.randn(2, 3, 32))
        assert adapter(torch.randn(2, 3, 32)).shape == (2, 3, 32)
    elif group == "injector":
        from latentwire.adapters.linear import LinearAdapter

        injector = factory(d_z=32, lm=lm, texts=TEXTS, adapter=LinearAdapter)
        injector.calibrate(torch.randn(2, 3, 32))
        injector(torch.randn(2, 3, 32))
    else:
        codec = factory(d_z=32).train()
        z = torch.randn(8, 40, 32)
        codec(z)
        codec.eval()
        assert codec.decode(codec.encode(z[0]), 40).shape == (40, 32)


def test_the_pooling_of_an_encoder_is_chosen_by_one_override() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("encoder/byte", overrides=["pooling@encoder.pooling=hierarchical"])
    assert cfg.encoder.pooling._target_ == "latentwire.encoders.Hierarchical"
