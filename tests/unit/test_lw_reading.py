"""Latents that layers read, and latents that change a cache: their formulas, and what they leave as it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from lw_toys import EOS, tiny_lm
from torch import Tensor

from callbacks.errors import UserError
from latentwire.adapters.mlp import MLPAdapter
from latentwire.injectors.coprocessor import Coprocessor
from latentwire.injectors.latent_adapters import LatentAdapters, places, stream_rms
from latentwire.injectors.soft_prefix import SoftPrefix
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.reading import LayerRead

TEXTS = ["Ada Stone lives in Oslo.", "Ben works as a baker.", "Plums!"]
D_Z, M, B = 6, 4, 2
QUESTIONS, ANSWERS = [[40, 41, 42], [50]], [[70, EOS], [80, 81, 82, EOS]]


def latents(seed: int = 1) -> Tensor:
    return torch.randn(B, M, D_Z, generator=torch.Generator().manual_seed(seed))


def between(lm: FrozenLM, gate: float = 0.5) -> LatentAdapters:
    torch.manual_seed(0)
    injector = LatentAdapters(D_Z, lm, TEXTS, MLPAdapter, width=8, heads=2, gate=gate, slots=M).eval()
    injector.calibrate(latents())
    return injector


def scores(lm: FrozenLM, prefix: Prefix) -> Tensor:
    return lm.answer_logprobs(prefix, QUESTIONS, ANSWERS).scores


def test_what_is_read_is_attention_written_out() -> None:
    torch.manual_seed(0)
    H, D, T, d = 2, 3, 5, 7
    read = LayerRead(
        0,
        *(torch.randn(1, H, M, D) for _ in range(2)),
        query=torch.randn(H * D, d),
        out=torch.randn(d, H * D),
        scale=torch.tensor(0.3),
    )
    x = torch.randn(1, T, d)
    for t in range(T):
        y = x[0, t] / math.sqrt(sum(float(v) ** 2 for v in x[0, t]) / d + 1e-6)
        q, heads = read.query @ y, []
        for h in range(H):
            logits = torch.tensor([float(q[h * D : (h + 1) * D] @ read.keys[0, h, j]) / math.sqrt(D) for j in range(M)])
            heads.append(sum((p * read.values[0, h, j] for j, p in enumerate(logits.softmax(0))), torch.zeros(D)))
        torch.testing.assert_close(read.added(x)[0, t], 0.3 * (read.out @ torch.cat(heads)), rtol=1e-4, atol=1e-5)


def test_a_layer_adds_it_behind_itself_to_all_but_the_head() -> None:
    lm = tiny_lm()
    injector = between(lm)
    prefix = injector(latents())
    assert prefix.reads is not None
    assert [r.layer + 1 for r in prefix.reads] == list(injector.at) == [1, 2]  # a quarter, half and three quarters of 2
    before: list[Tensor] = []
    after: list[Tensor] = []
    layer, first = lm.decoder.layers[0], prefix.reads[0]
    hooks = len(layer._forward_hooks)
    tap = layer.register_forward_hook(lambda m, i, out: before.append(out))  # hooks run in the order of registration
    following = lm.decoder.layers[1].register_forward_pre_hook(lambda m, i, k: after.append(i[0]), with_kwargs=True)
    scores(lm, prefix)
    tap.remove()
    following.remove()
    assert torch.equal(after[0][:, :1], before[0][:, :1])
    torch.testing.assert_close(after[0][:, 1:], before[0][:, 1:] + first.added(before[0][:, 1:]))
    assert len(layer._forward_hooks) == hooks, "nothing is left on the frozen model"


def test_a_closed_gate_reads_nothing_and_an_open_one_is_a_share_of_the_stream() -> None:
    lm = tiny_lm()
    injector = between(lm)
    with torch.no_grad():
        stream = stream_rms(lm, TEXTS, injector.at)
        torch.testing.assert_close(injector.size, stream)
        ids = [[*lm.style.head, *lm.style.encode(text)] for text in TEXTS]
        own = [
            lm.decoder(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[1][0, 1:] for row in ids
        ]
        assert float(torch.cat(own).pow(2).mean().sqrt()) == pytest.approx(float(stream[0]), rel=1e-5)
        none = scores(lm, Prefix())
        assert (scores(lm, injector(latents())) - none).abs().max() > 0.05
        injector.gates.zero_()
        assert torch.equal(scores(lm, injector(latents())), none)


@pytest.mark.parametrize("make", [between, lambda lm: augmented(lm)[0]])
def test_answers_are_generated_by_what_scores_them(make: Callable[[FrozenLM], LatentAdapters | Coprocessor]) -> None:
    lm = tiny_lm("qwen2")
    prefix = make(lm)(latents())
    generated = lm.generate_scored(prefix, QUESTIONS, 5)
    for i, (tokens, logprobs) in enumerate(zip(generated.tokens, generated.logprobs, strict=True)):
        alone = lm.answer_logprobs(prefix.select([i]), [QUESTIONS[i]], [[*tokens, EOS]])
        torch.testing.assert_close(
            alone.logprobs[: len(tokens)], torch.tensor(logprobs[: len(tokens)]), rtol=1e-4, atol=1e-4
        )
        assert lm.generate(prefix.select([i]), [QUESTIONS[i]], 5) == [tokens]


def augmented(lm: FrozenLM) -> tuple[Coprocessor, SoftPrefix]:
    torch.manual_seed(0)
    injector = Coprocessor(D_Z, lm, TEXTS, MLPAdapter, hidden=8, gate=0.5).eval()
    torch.manual_seed(0)
    plain = SoftPrefix(D_Z, lm, TEXTS, MLPAdapter).eval()
    for one in (injector, plain):
        one.calibrate(latents())
    return injector, plain


def test_a_coprocessor_changes_the_cache_of_a_soft_prefix_by_a_share_of_the_spread_of_text() -> None:
    lm = tiny_lm()
    injector, plain = augmented(lm)
    with torch.no_grad():
        soft, changed = lm.cached(plain(latents())).kv, injector(latents()).kv
        assert soft is not None
        assert changed is not None
        at = torch.arange(1, M + 1)
        for layer, ((k, v), (k2, v2)) in enumerate(zip(soft, changed, strict=True)):
            for which, delta in enumerate((injector.placement.undo(k2 - k, at, layer), v2 - v)):
                share = (delta / injector.std[layer, which][:, None]).pow(2).mean().sqrt()
                assert float(share) == pytest.approx(0.5, rel=1e-3)
        injector.gain.zero_()
        torch.testing.assert_close(scores(lm, injector(latents())), scores(lm, plain(latents())), rtol=0, atol=1e-5)


def test_layers_and_heads_that_there_are_not_are_refused() -> None:
    assert places(None, 32, "lm") == (8, 16, 24)
    assert places([15, 5], 32, "lm") == (5, 15)
    for wrong in ([0], [33], [4, 4], []):
        with pytest.raises(UserError, match=r"injector\.layers=null"):
            places(wrong, 32, "lm")
    with pytest.raises(UserError, match=r"injector\.heads=4"):
        LatentAdapters(D_Z, tiny_lm(), TEXTS, MLPAdapter, width=20, heads=12)
    with pytest.raises(UserError, match=r"injector\.slots=4"):
        LatentAdapters(D_Z, tiny_lm(), TEXTS, MLPAdapter, width=8, heads=2, slots=3).calibrate(latents())
