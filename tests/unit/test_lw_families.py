"""Any causal language model of transformers is read exactly or refused when it is loaded, with a way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.errors import UserError
from latentwire.adapters.linear import LinearAdapter
from latentwire.encoders.lm_lora import LMLoRAEncoder
from latentwire.encoders.pooling import ChunkMean
from latentwire.family_table import moved, row, table
from latentwire.injectors.deep_prefix import DeepPrefix
from latentwire.injectors.rotary import RotaryPlacement
from latentwire.lm import anatomy, loading, probe, zoo
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.lora import LoRA
from latentwire.lm.prompts import render

PAGE = Path(__file__).parents[2] / "docs" / "results" / "families.md"
KINDS = {species.name: species for species in zoo.SPECIES}
TOKENIZER = zoo.tokenizer()


def model(name: str, dtype: torch.dtype = torch.float32, **more: Any) -> FrozenLM:
    return FrozenLM(zoo.build(KINDS[name], dtype, **more), TOKENIZER, "reader")


def plain(lm: FrozenLM, *ids: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities of the last run of ids, from one bare pass over all runs."""
    whole = [i for run in (lm.style.head, *ids) for i in run]
    logits = lm.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return logits[-len(ids[-1]) - 1 : -1]


# -- what is read, is read exactly -------------------------------------------------------------------------------------
@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["GPT-2", "GPT-J", "Falcon, multi-query", "OPT-350m, projected", "DeepSeek-V2", "GPT-Neo"]
)
def test_a_soft_prefix_is_cached_and_read_whatever_the_layers_are_called(name: str) -> None:
    """Layers that are not `decoder.layers`, one key head for all, projected embeddings, compressed keys."""
    lm = model(name, **({"window_size": 64} if name == "GPT-Neo" else {}))
    prompts = [render(lm.style, "ten marks.", "who?", "Bob"), render(lm.style, "ten more !", "q", "x")]
    embeds = lm.embed(torch.tensor([p.context for p in prompts]))
    assert embeds.shape[2] == lm.d_model
    expected = torch.cat([plain(lm, p.context, p.question, p.answer) for p in prompts])
    for prefix in (Prefix(embeds=embeds), lm.cached(Prefix(embeds=embeds))):
        found = lm.answer_logprobs(prefix, [p.question for p in prompts], [p.answer for p in prompts])
        torch.testing.assert_close(found.scores, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["Mistral, window", "Phi-3, window", "Starcoder2, window", "GPT-Neo"])
def test_a_window_ends_what_is_read_whether_or_not_kinds_of_layers_are_listed(name: str) -> None:
    lm = model(name)
    assert lm.max_tokens == lm.style.max_tokens == 24 < lm.model.config.max_position_embeddings
    with pytest.raises(UserError, match="at most 24"):
        lm.answer_logprobs(Prefix(text_ids=[tuple(range(20, 40))]), [(50, 51, 52)], [(60, 61)])
    # a short text with a long answer beside a long text with a short one: more columns than the longest row takes
    contexts, questions, answers = [tuple(range(20, 38)), (40,)], [(50,), (51,)], [(60, 61), tuple(range(70, 90))]
    found = lm.answer_logprobs(Prefix(text_ids=contexts), questions, answers)
    expected = torch.cat([plain(lm, *row) for row in zip(contexts, questions, answers, strict=True)])
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=1e-5)
    assert found.row.tolist() == [0] * 2 + [1] * 20
    assert found.nll().shape == (2,)


@torch.no_grad()
def test_layers_without_rotation_keep_their_keys_under_a_deep_prefix() -> None:
    lm = model("SmolLM3")
    placement = RotaryPlacement(lm)
    assert placement.turns == (True, False)
    ids, head = tuple(range(30, 40)), len(lm.style.head)
    positions = torch.arange(head, head + len(ids))
    text = lm.style.decode(ids)
    assert lm.style.encode(text) == ids
    kv = [(placement.place(k, positions, i), v) for i, (k, v) in enumerate(placement.of_text(text))]
    found = lm.answer_logprobs(Prefix(kv=kv), [(50, 51)], [(60, 61)])
    torch.testing.assert_close(found.scores, plain(lm, ids, (50, 51), (60, 61)), rtol=0, atol=1e-5)
    # one latent at two places: its key is another where a layer rotates, the same where it does not
    torch.manual_seed(0)
    deep = DeepPrefix(6, lm, ["some text to measure"], LinearAdapter, width=8).eval()
    z = torch.randn(1, 1, 6).expand(1, 2, 6)
    deep.calibrate(z)
    made = deep(z).kv
    assert made is not None
    (turned, _), (same, _) = made
    assert not torch.allclose(turned[:, :, 0], turned[:, :, 1], atol=1e-3)
    torch.testing.assert_close(same[:, :, 0], same[:, :, 1])


# -- what is not, is refused in one screen -----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["BLOOM", "MPT", "Mamba", "RWKV", "Jamba"])
def test_recurrent_states_and_biases_for_positions_are_refused_when_loaded(name: str) -> None:
    with pytest.raises(UserError) as caught:
        model(name)
    assert "lm reader" in caught.value.where
    assert caught.value.remedy
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("name", "found"),
    [("DeepSeek-V2", "heads, width"), ("GPT-2", "no rotary"), ("Cohere", "differ by"), ("gpt-oss", "differ by")],
)
def test_keys_that_cannot_be_placed_are_refused_by_deep_prefix_alone(name: str, found: str) -> None:
    with pytest.raises(UserError, match=found) as caught:
        RotaryPlacement(model(name))
    assert "injector=soft_prefix" in caught.value.remedy


def test_a_model_that_reads_embeddings_as_something_else_is_refused() -> None:
    """The probe knows no family: a model that was broken by hand does not pass either."""
    broken = zoo.build(KINDS["Llama"])
    inner = broken.model.forward

    def forward(input_ids=None, inputs_embeds=None, **rest):  # embeddings lose what ids would have had
        return inner(input_ids=input_ids, inputs_embeds=None if inputs_embeds is None else 0.8 * inputs_embeds, **rest)

    broken.model.forward = forward
    with pytest.raises(UserError, match=r"given as embeddings .* nats apart"):
        FrozenLM(broken, TOKENIZER, "broken")


def test_a_model_that_ignores_positions_is_refused() -> None:
    """Padding stands between the head and a shorter text: who counts columns reads it elsewhere."""
    broken = zoo.build(KINDS["Llama"])
    inner = broken.model.forward
    broken.model.forward = lambda position_ids=None, **rest: inner(**rest)
    with pytest.raises(UserError, match="nats apart"):
        FrozenLM(broken, TOKENIZER, "broken")


def test_a_model_without_a_number_of_positions_is_refused() -> None:
    with pytest.raises(UserError, match="max_position_embeddings"):
        loading.positions(zoo.build(KINDS["BLOOM"]).config, "reader")


def test_a_tokenizer_of_more_ids_than_embeddings_is_refused_unless_they_are_special() -> None:
    small = len(TOKENIZER) - 3
    with pytest.raises(UserError, match=f"3 tokens without an embedding, .* has the id {small}"):
        model("Llama", vocab_size=small)
    padded = zoo.tokenizer()
    padded.add_special_tokens({"pad_token": "<extra pad>"})
    assert len(padded) == len(TOKENIZER) + 1
    FrozenLM(zoo.build(KINDS["Llama"]), padded, "reader")


def test_a_file_of_weights_that_is_cut_off_and_a_device_that_is_not_there_are_refused(tmp_path: Path) -> None:
    zoo.build(KINDS["Llama"]).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device"):
            FrozenLM.load(str(tmp_path), device="cuda")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(UserError, match="source"):
        FrozenLM.load(str(tmp_path))


def test_the_probe_measures_in_nats() -> None:
    measured = probe.measure(model("Llama"))
    assert set(measured.found) == {"embeddings", "keys and values", "single tokens behind a cache"}
    assert max(measured.found.values()) < 1e-5 < measured.allowed < measured.context / 10


# -- LoRA reaches the whole attention ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("Llama", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("Phi-3", {"qkv_proj", "o_proj"}),
        ("GPT-2", {"c_attn", "c_proj"}),
        ("GPT-NeoX, Pythia", {"query_key_value", "dense"}),
        ("DeepSeek-V2", {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}),
    ],
)
def test_lora_goes_on_every_map_of_the_attention_and_on_nothing_else(name: str, maps: set[str]) -> None:
    lm = model(name)
    trained = LoRA(rank=2, layers=1).apply(lm)
    assert {n.split(".lora_")[0].rpartition(".")[2] for n, _ in trained} == maps
    assert len(trained) == 2 * len(maps), "the first layer alone, and not the c_proj of GPT-2's other half"
    lm.answer_logprobs(Prefix(text_ids=[(30, 31, 32)]), [(50, 51)], [(60, 61)]).nll().sum().backward()
    for n, p in trained:  # the first matrices move once the second ones do
        assert p.grad is not None
        assert bool((p.grad != 0).any()) == ("lora_B" in n), n


def test_an_attention_that_lora_cannot_cover_is_refused() -> None:
    broken = zoo.build(KINDS["Llama"])
    attention = broken.model.layers[1].self_attn
    attention.extra = torch.nn.Parameter(torch.zeros(3, 3))
    lm = FrozenLM(broken, TOKENIZER, "reader")
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.extra") as caught:
        LoRA().apply(lm)
    assert "targets" in caught.value.remedy
    with pytest.raises(UserError, match="down_proj"):  # what there is
        LoRA(targets=["q_proj", "nothing"]).apply(lm)
    assert LoRA(targets=["q_proj"]).apply(lm)


def test_an_encoder_takes_the_same_maps_and_refuses_states_of_another_width() -> None:
    make: Any = dict(d_z=4, slices=("shared",), pooling=ChunkMean, max_tokens=32, width=8, heads=2)
    encoder = LMLoRAEncoder(model("GPT-2"), rank=2, **make)
    assert {name.split("-lora_")[0] for name in encoder.lora} == {
        f"h-{i}-attn-{which}" for i in (0, 1) for which in ("c_attn", "c_proj")
    }
    with pytest.raises(UserError, match="states 32 wide and embeddings 16 wide"):
        LMLoRAEncoder(model("OPT-350m, projected"), rank=0, **make)


def test_what_a_token_takes_in_the_cache_is_counted_from_the_cache() -> None:
    assert model("Llama").anatomy.kv_numbers == 2 * 2 * 2 * 8
    assert model("Falcon, multi-query").anatomy.kv_numbers == 2 * 2 * 1 * 8
    lm = model("DeepSeek-V2")
    assert lm.anatomy.kv_numbers == sum(x.shape[1] * x.shape[3] for kv in lm.keys_and_values([5]) for x in kv)
    assert anatomy.Anatomy((), ((((2, 8)), (2, 4)),), (), ()).kv_numbers == 24


# -- the page ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["Llama", "SmolLM3", "Phi-3, window", "Falcon, multi-query", "OPT-350m, projected"])
def test_the_page_shows_what_is_measured(name: str) -> None:
    found = row(KINDS[name], TOKENIZER)
    assert found.soft == "exact"
    assert found.markdown() in PAGE.read_text(encoding="utf-8").splitlines()


def test_a_wrong_placement_is_no_exact_deep_prefix() -> None:
    lm = model("SmolLM3")
    placement = RotaryPlacement(lm)
    assert moved(lm, placement) < 1e-5
    placement.turns = (True, True)  # as if the layer without positions had them
    assert moved(lm, placement) > 0.05


@pytest.mark.slow
def test_the_page_is_what_the_command_writes_and_no_family_is_read_wrongly() -> None:
    rows = [row(species, TOKENIZER) for species in zoo.SPECIES]
    assert not [r.name for r in rows if "WRONG" in r.markdown()]
    assert table(rows) in PAGE.read_text(encoding="utf-8")
