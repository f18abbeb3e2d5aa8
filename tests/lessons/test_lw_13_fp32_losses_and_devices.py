"""Losses are float32, and inputs go where they are read (specification B2.13).

bf16 has no NumPy and rounds losses; a model under `device_map` has no device of its own.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from lw_toys import EOS, FAMILIES, Family, byte_tokenizer, tiny_lm, tiny_model

from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix

QUESTIONS, ANSWERS = [[40, 41, 42], [50]], [[70, EOS], [80, 81, 82, EOS]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bf16_model_gives_fp32_losses(family: Family) -> None:
    lm = tiny_lm(family, torch.bfloat16)
    raw: list[torch.Tensor] = []
    lm.model.register_forward_hook(lambda _, args, out: raw.append(out.logits))
    latents = torch.randn(2, 3, lm.d_model, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    found = lm.answer_logprobs(Prefix(embeds=latents), QUESTIONS, ANSWERS)
    assert raw[0].dtype == torch.bfloat16
    assert {found.scores.dtype, found.logprobs.dtype, found.nll().dtype} == {torch.float32}
    # normalised in fp32: in bf16 the probabilities of 262 tokens miss 1 by far more
    torch.testing.assert_close(found.scores.exp().sum(1), torch.ones(6), rtol=0, atol=1e-5)
    assert float((raw[0].detach().log_softmax(-1).float().exp().sum(-1) - 1).abs().max()) > 1e-4
    found.nll().mean().backward()
    assert latents.grad is not None
    assert latents.grad.dtype == torch.float32
    assert len(lm.fingerprint()) == 64
    assert lm.measure(["some text"]).dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["text", "embeds", "kv"])
def test_a_placed_model_computes_what_the_whole_one_does(family: Family, kind: str, tmp_path: Path) -> None:
    """Embedding, a layer and the head lie on disk until they run: a parameter's device is no place to send to."""
    whole = FrozenLM(tiny_model(family), byte_tokenizer(), "whole")
    names = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head"]
    places = dict.fromkeys(names, "cpu") | dict.fromkeys(["model.embed_tokens", "model.layers.1", "lm_head"], "disk")
    model = dispatch_model(
        copy.deepcopy(whole.model), places, main_device="cpu", offload_dir=tmp_path, force_hooks=True
    )
    placed = FrozenLM(model, byte_tokenizer(), "placed")
    assert model.lm_head.weight.device.type == "meta"
    assert {placed.input_device, placed.output_device, *placed.layer_devices()} == {torch.device("cpu")}
    g = torch.Generator().manual_seed(0)
    prefix = {
        "text": Prefix(text_ids=[[30, 31], [32]]),
        "embeds": Prefix(embeds=torch.randn(2, 3, 32, generator=g)),
        "kv": Prefix(kv=[(torch.randn(2, 2, 3, 8, generator=g),) * 2 for _ in range(2)]),
    }[kind]
    with torch.no_grad():
        expected = whole.answer_logprobs(prefix, QUESTIONS, ANSWERS)
        found = placed.answer_logprobs(prefix, QUESTIONS, ANSWERS)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=0)
    assert placed.generate(prefix, QUESTIONS, 5) == whole.generate(prefix, QUESTIONS, 5)
    ids, mask = torch.tensor([[1, 40, 41]]), torch.ones(1, 3)
    torch.testing.assert_close(placed.hidden(ids, mask, (0, 2)), whole.hidden(ids, mask, (0, 2)), rtol=0, atol=0)
    assert placed.to("meta").input_device == torch.device("cpu"), "a placed model stays where it is"
