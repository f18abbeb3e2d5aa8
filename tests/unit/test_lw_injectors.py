"""Injectors: fed what the model itself makes of a text, they are the text; else they start at the model's scale."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from lw_toys import byte_tokenizer, tiny_lm, tiny_model
from torch import Tensor
from transformers import CohereConfig, CohereForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from callbacks.errors import UserError
from latentwire.adapters.affine import AffineAdapter
from latentwire.adapters.linear import LinearAdapter
from latentwire.adapters.mlp import MLPAdapter
from latentwire.injectors.base import Injector
from latentwire.injectors.combined import Combined
from latentwire.injectors.coprocessor import Coprocessor
from latentwire.injectors.deep_prefix import DeepPrefix
from latentwire.injectors.fitting import pooled_embeddings
from latentwire.injectors.kv_statistics import measure_kv
from latentwire.injectors.latent_adapters import LatentAdapters
from latentwire.injectors.rotary import RotaryPlacement
from latentwire.injectors.sized_prefix import SizedPrefix
from latentwire.injectors.soft_prefix import SoftPrefix
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix

TEXTS = ["Ada Stone lives in Oslo.", "Ben works as a baker.", "Plums!"]
D_Z, M = 6, 4
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
KINDS = ("llama", "qwen2", "no_bos", "chat", "llama3", "yarn")


def model(kind: str, dtype: torch.dtype = torch.float64) -> FrozenLM:
    if kind in ("llama3", "yarn"):
        config: dict[str, Any] = dict(vocab_size=262, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
        config |= dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3)
        torch.manual_seed(0)
        scaled = LlamaForCausalLM(LlamaConfig(**config, rope_parameters=LLAMA3 if kind == "llama3" else YARN))
        return FrozenLM(scaled.to(dtype), byte_tokenizer(), kind)
    if kind == "no_bos":
        lm = tiny_lm("qwen2", dtype)
        lm.style = replace(lm.style, head=())
        return lm
    return tiny_lm("qwen2" if kind == "qwen2" else "llama", dtype, chat=kind == "chat")


def deep(lm: FrozenLM, **settings: Any) -> DeepPrefix:
    torch.manual_seed(0)
    return DeepPrefix(D_Z, lm, TEXTS, MLPAdapter, width=16, **settings).eval()


def soft(lm: FrozenLM) -> SoftPrefix:
    torch.manual_seed(0)
    return SoftPrefix(D_Z, lm, TEXTS, MLPAdapter).eval()


def between(lm: FrozenLM, **settings: Any) -> LatentAdapters:
    torch.manual_seed(0)
    return LatentAdapters(D_Z, lm, TEXTS, MLPAdapter, width=16, **settings).eval()


def both(lm: FrozenLM, **settings: Any) -> Coprocessor:
    torch.manual_seed(0)
    return Coprocessor(D_Z, lm, TEXTS, MLPAdapter, hidden=16, **settings).eval()


def sized(lm: FrozenLM, **settings: Any) -> SizedPrefix:
    torch.manual_seed(0)
    return SizedPrefix(D_Z, lm, TEXTS, MLPAdapter, width=16, **{"length": 6, **settings}).eval()


def combined(lm: FrozenLM) -> Combined:
    torch.manual_seed(0)
    return Combined(D_Z, lm, TEXTS, MLPAdapter, partial(DeepPrefix, width=16), width=16).eval()


EVERY = [soft, deep, between, both, sized, combined]


def latents(batch: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(batch, M, D_Z, generator=torch.Generator().manual_seed(seed))


def scores(lm: FrozenLM, prefix: Prefix, batch: int = 1) -> Tensor:
    question, answer = list(lm.style.encode("Where?")), list(lm.style.encode("Oslo"))
    return lm.answer_logprobs(prefix, [question] * batch, [answer] * batch).scores


# -- fed with the truth -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_deep_prefix_with_the_texts_own_keys_and_values_is_the_text(kind: str) -> None:
    lm = model(kind)
    ids = list(lm.style.encode(TEXTS[0]))
    head = len(lm.style.head)
    # latent i is the i-th unit vector and layer l's weights list the true keys (before RoPE) and values by column
    injector = DeepPrefix(len(ids), lm, TEXTS, NoCalibration, width=len(ids)).double()
    injector.rms.fill_(1.0)
    positions = torch.arange(head, head + len(ids))
    with torch.no_grad():
        for layer, (keys, values) in enumerate(lm.keys_and_values([*lm.style.head, *ids])):
            true = torch.stack([injector.placement.undo(keys[:, :, head:], positions, layer)[0], values[0, :, head:]])
            true = (true - injector.mean[layer][:, :, None]) / injector.std[layer][:, :, None]
            linear: Any = injector.layers[layer]
            linear.weight.copy_(true.permute(0, 1, 3, 2).reshape(-1, len(ids)))
            linear.bias.zero_()
    with torch.no_grad():
        text = scores(lm, Prefix(text_ids=[ids]))
        latent = scores(lm, injector(torch.eye(len(ids), dtype=torch.float64)[None]))
        none = scores(lm, Prefix())
    torch.testing.assert_close(latent, text, rtol=0, atol=1e-6)
    assert (none - text).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_soft_prefix_with_the_texts_own_embeddings_is_the_text(kind: str) -> None:
    lm = model(kind)
    ids = list(lm.style.encode(TEXTS[0]))
    embeds = lm.embed(torch.tensor([ids]))
    injector = SoftPrefix(lm.d_model, lm, TEXTS, AffineAdapter).double()
    injector.calibrate(embeds)
    # the calibrated adapter's factor is target / measured; the gain takes it out again
    adapter = injector.adapter
    assert adapter.calibration.gain is not None
    with torch.no_grad():
        adapter.calibration.gain.copy_(adapter.calibration.measured / adapter.calibration.target)
        text, latent = scores(lm, Prefix(text_ids=[ids])), scores(lm, injector(embeds))
    torch.testing.assert_close(latent, text, rtol=0, atol=1e-9)


class NoCalibration(AffineAdapter):
    def __init__(self, d_z: int, d_out: int, target: float):
        super().__init__(d_z, d_out, target, "none")


# -- scale ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_the_projections_of_text(kind: str) -> None:
    """Taken by hooks on the projections themselves, before any rotation."""
    lm = model(kind)
    found = measure_kv(lm, RotaryPlacement(lm), TEXTS)
    taken: dict[tuple[int, int], list[Tensor]] = {}
    handles = []
    for layer, block in enumerate(lm.model.get_decoder().layers):
        for which, linear in enumerate((block.self_attn.k_proj, block.self_attn.v_proj)):
            rows = taken.setdefault((layer, which), [])
            handles.append(linear.register_forward_hook(lambda m, i, out, rows=rows: rows.append(out[0])))
    head = len(lm.style.head)
    for text in TEXTS:
        lm.model(input_ids=torch.tensor([[*lm.style.head, *lm.style.encode(text)]]))
    for handle in handles:
        handle.remove()
    for (layer, which), outputs in taken.items():
        tokens = torch.cat([out[head:] for out in outputs]).unflatten(1, lm.kv_shape)
        torch.testing.assert_close(found.mean[layer, which].double(), tokens.mean(0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.std[layer, which].double(), tokens.std(0, correction=0), rtol=1e-4, atol=1e-4)


def test_deep_prefix_starts_with_the_scale_of_text() -> None:
    lm = model("qwen2", torch.float32)
    injector, z = deep(lm), latents(32)
    injector.calibrate(z)
    prefix = injector(z)
    assert prefix.kv is not None
    assert torch.equal(injector.gain, torch.ones(lm.n_layers, 2))
    positions = torch.arange(1, M + 1)
    for layer, (keys, values) in enumerate(prefix.kv):
        assert keys.shape == values.shape == (32, lm.kv_shape[0], M, lm.kv_shape[1])
        for which, x in enumerate((injector.placement.undo(keys, positions, layer), values)):
            mean, std = injector.mean[layer, which][:, None], injector.std[layer, which][:, None]
            ratio = ((x - mean) / std).pow(2).mean().sqrt()
            assert float(ratio) == pytest.approx(1, rel=1e-3)


def test_soft_prefix_starts_with_the_rms_of_text_embeddings() -> None:
    lm = model("llama", torch.float32)
    injector, z = soft(lm), latents(32)
    injector.calibrate(z)
    embeds = injector(z).embeds
    assert embeds is not None
    ids = torch.tensor([i for text in TEXTS for i in lm.style.encode(text)])
    ratio = embeds.pow(2).mean().sqrt() / lm.embed(ids).pow(2).mean().sqrt()
    assert float(ratio) == pytest.approx(1, rel=1e-3)
    per_token = embeds.pow(2).mean(2).sqrt()
    assert per_token.std() > 0.01 * per_token.mean()  # no token is forced to the same magnitude


# -- start ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_deep_prefix_starts_as_the_text_where_the_latents_can_tell_all(kind: str) -> None:
    """Least squares finds keys and values exactly, except for the ridge, with one slot per token that names its place.

    With a random start nothing of the text is there.
    """
    lm = model(kind, torch.float32)
    text = TEXTS[0]
    ids = list(lm.style.encode(text))
    z = torch.eye(len(ids))[None]
    found = {}
    for start in ("text", "random"):
        torch.manual_seed(0)
        injector = DeepPrefix(len(ids), lm, [text], LinearAdapter, width=len(ids), start=start).eval()
        with torch.no_grad():
            injector.adapter.linear.weight.copy_(torch.eye(len(ids)))  # type: ignore[union-attr,operator]
            injector.adapter.linear.bias.zero_()  # type: ignore[union-attr,operator]
            injector.calibrate(z, [text])
            found[start] = (scores(lm, injector(z)) - scores(lm, Prefix(text_ids=[ids]))).abs().max()
    assert found["text"] < 0.05
    assert found["random"] > 20 * found["text"]


def test_a_slot_starts_as_the_mean_of_its_tokens() -> None:
    lm = model("llama", torch.float32)
    texts = ["Ada Stone lives in Oslo.", "Ben works as a baker now"]
    ids = [torch.tensor(lm.style.encode(t)) for t in texts]
    literal = []
    for row in ids:
        embeds = lm.embed(row)
        for slots in (3, 2):  # a shared and a private slice, each over the whole text
            literal += [embeds[j * len(row) // slots : (j + 1) * len(row) // slots].mean(0) for j in range(slots)]
    found = pooled_embeddings(lm, texts, [3, 2])
    torch.testing.assert_close(found.flatten(0, 1), torch.stack(literal))
    injector = SoftPrefix(64, lm, texts, LinearAdapter).eval()
    z = torch.randn(2, 5, 64)  # more numbers per latent than there are latents: the map can hit every mean
    injector.calibrate(z, texts, [3, 2])
    embeds = injector(z).embeds
    assert embeds is not None
    cosine = torch.cosine_similarity(embeds.flatten(0, 1), torch.stack(literal), dim=1)
    assert float(cosine.min()) > 0.95


# -- every injector ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_training_reaches_every_parameter_through_the_model_and_moves_nothing_of_it(make, kind: str) -> None:
    lm = model(kind, torch.float32)
    before = lm.fingerprint()
    injector: Injector = make(lm)
    z = latents().requires_grad_()
    injector.calibrate(z)
    injector.train()
    # every weight of the last layer's keys and values, all four slots
    scores(lm, injector(z), batch=3).pow(2).sum().backward()
    for name, p in injector.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name
    assert z.grad is not None
    assert bool((z.grad.abs().sum(2) > 0).all())
    assert lm.fingerprint() == before


@pytest.mark.parametrize("make", EVERY)
def test_a_batch_is_its_messages(make) -> None:
    lm = model("llama", torch.float32)
    injector, z = make(lm), latents()
    injector.calibrate(z)
    together = scores(lm, injector(z), batch=3).view(3, -1, lm.vocab_size)
    for i in range(3):
        torch.testing.assert_close(scores(lm, injector(z[i : i + 1])), together[i], rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", EVERY)
def test_uncalibrated_is_an_error_and_a_saved_state_is_calibrated(make) -> None:
    lm = model("llama", torch.float32)
    injector, z = make(lm), latents()
    with pytest.raises(RuntimeError, match="not calibrated"):
        injector(z)
    injector.calibrate(z)
    torch.manual_seed(5)
    cls = type(injector)
    other = cls(
        D_Z,
        lm,
        ["other texts, other scales"],
        MLPAdapter,
        **{
            SoftPrefix: {},
            Coprocessor: {"hidden": 16},
            SizedPrefix: {"width": 16, "length": 6},
            Combined: {"width": 16, "prefix": partial(DeepPrefix, width=16)},
        }.get(cls, {"width": 16}),
    ).eval()
    other.load_state_dict(injector.state_dict())
    assert torch.equal(scores(lm, other(z), 3), scores(lm, injector(z), 3))
    frozen = {p.data_ptr() for p in lm.model.parameters()}
    assert not any(t.data_ptr() in frozen for t in [*injector.parameters(), *injector.state_dict().values()])
    twin = copy.deepcopy(injector)
    assert torch.equal(scores(lm, twin(z), 3), scores(lm, injector(z), 3))


@pytest.mark.parametrize("make", EVERY)
def test_any_number_of_slots(make) -> None:
    lm = model("llama", torch.float32)
    injector = make(lm)
    injector.calibrate(latents())
    for slots in (1, 9):
        assert torch.isfinite(scores(lm, injector(torch.randn(2, slots, D_Z)), 2)).all()


def test_a_later_slot_is_the_same_latent_at_a_later_position() -> None:
    lm = model("llama", torch.float32)
    injector = deep(lm)
    injector.calibrate(latents())
    same = latents()[:, :1].expand(-1, M, -1)
    kv = injector(same).kv
    assert kv is not None
    for layer, (keys, values) in enumerate(kv):
        bare = injector.placement.undo(keys, torch.arange(1, M + 1), layer)
        torch.testing.assert_close(bare, bare[:, :, :1].expand_as(bare), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(values, values[:, :, :1].expand_as(values))
        assert not torch.allclose(keys[:, :, 0], keys[:, :, 1], atol=1e-2)


# -- positions --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_placing_is_what_the_model_does_and_undoing_its_inverse(kind: str) -> None:
    lm = model(kind)
    placement = RotaryPlacement(lm)
    ids = list(lm.style.encode("plums"))
    bare: list[Tensor] = []
    hook = (
        lm.model.get_decoder()
        .layers[1]
        .self_attn.k_proj.register_forward_hook(
            lambda m, i, out: bare.append(out.unflatten(-1, (-1, lm.kv_shape[1])).transpose(1, 2))
        )
    )
    keys = lm.keys_and_values(ids)[1][0]
    hook.remove()
    positions = torch.arange(len(ids))
    torch.testing.assert_close(placement.place(bare[0], positions, 1), keys, rtol=0, atol=1e-9)
    torch.testing.assert_close(placement.undo(keys, positions, 1), bare[0], rtol=0, atol=1e-6)


def test_models_with_other_positions_are_refused() -> None:
    sizes: dict[str, Any] = dict(vocab_size=262, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64)
    torch.manual_seed(0)
    pairs = CohereForCausalLM(
        CohereConfig(**sizes, hidden_size=32, intermediate_size=48, initializer_range=0.3, pad_token_id=0)
    )
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=262, n_embd=32, n_layer=2, n_head=4, n_positions=64))
    for other, text in ((pairs, "differ by"), (gpt, "no rotary embedding")):
        lm = FrozenLM(other, byte_tokenizer(), "other")
        with pytest.raises(UserError, match=text):
            deep(lm)
        soft(lm)  # embeddings need no positions


def test_reduced_precision_is_recognised_too() -> None:
    lm = FrozenLM(tiny_model("llama", torch.bfloat16), byte_tokenizer(), "half")
    injector = deep(lm)
    injector.calibrate(latents())
    assert torch.isfinite(scores(lm, injector(latents()), 3)).all()


def test_no_text_to_measure_is_refused() -> None:
    with pytest.raises(UserError, match=r"wire\.measured_texts"):
        DeepPrefix(D_Z, model("llama", torch.float32), [""], LinearAdapter)
