"""Gradient checkpointing beside a cache: the same losses and gradients to the last bit, and less that is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lw_parts import SHARED, TEXTS, make_encoder
from lw_runs import config, fit, rows
from lw_toys import EOS, FAMILIES, Family, tiny_lm
from torch import Tensor

from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix

QUESTIONS, ANSWERS = [[40, 41, 42], [50], [51, 52]], [[70, EOS], [80, 81, 82, EOS], [90, EOS]]


def _kv(lm: FrozenLM, x: Tensor) -> Prefix:
    return Prefix(kv=[(x[:, :2, i], x[:, 2:, i]) for i in range(lm.n_layers)])


KINDS: dict[str, tuple[tuple[int, ...], Callable[[FrozenLM, Tensor], Prefix]]] = {
    "keys and values": ((3, 4, 2, 5, 8), _kv),
    "embeddings": ((3, 5, 32), lambda lm, x: Prefix(embeds=x)),
    "embeddings, read once": ((3, 5, 32), lambda lm, x: lm.cached(Prefix(embeds=x)).select([0, 1, 2])),
}


def _read(lm: FrozenLM, kind: str, on: bool) -> tuple[Tensor, Tensor, int]:
    """Return log-probabilities, the gradient of the latents, and the bytes that the backward pass kept."""
    shape, prefix_of = KINDS[kind]
    latents = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    own = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    lm.checkpointing = on
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        scores = lm.answer_logprobs(prefix_of(lm, latents), QUESTIONS, ANSWERS).nll()
    scores.sum().backward()
    assert latents.grad is not None
    return scores.detach(), latents.grad, sum(kept.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_gives_the_same_bits_and_keeps_less(family: Family, kind: str) -> None:
    lm = tiny_lm(family)
    without, with_it = _read(lm, kind, False), _read(lm, kind, True)
    assert torch.equal(without[0], with_it[0])
    assert torch.equal(without[1], with_it[1])
    assert with_it[2] < 0.8 * without[2]
    assert not any("forward" in lm.decoder.get_submodule(name).__dict__ for name in lm.anatomy.layers)


def test_a_lora_on_the_reader_gets_the_same_gradients() -> None:
    from latentwire.lm.lora import LoRA

    found = []
    for on in (False, True):
        lm = tiny_lm()
        torch.manual_seed(0)
        trained = [p for _, p in LoRA(rank=2).apply(lm)]
        _read(lm, "keys and values", on)
        found.append([p.grad for p in trained])
    for a, b in zip(*found, strict=True):
        assert a is not None
        assert torch.equal(a, b)


def test_an_encoder_with_lora_gives_the_same_bits() -> None:
    found = []
    for on in (False, True):
        encoder = make_encoder("lm_lora")
        encoder.checkpointing = on
        z = encoder(encoder.tokenize(TEXTS[:2]), SHARED)
        z.square().sum().backward()
        found.append([z.detach(), *(p.grad for p in encoder.lora.parameters())])  # type: ignore[union-attr]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_run_is_the_same_run_with_it(tmp_path: Path) -> None:
    more = ["encoder.rank=2", "loader.steps_per_epoch=2", "trainer.max_epochs=1", "injector=soft_prefix"]
    cfgs = [config(tmp_path, *more, f"placement.checkpointing={on}", runs=on) for on in ("false", "true")]
    parts = [fit(cfg) for cfg in cfgs]
    assert rows(cfgs[0]) == rows(cfgs[1])
    for (name, a), (_, b) in zip(*(p.module.named_parameters() for p in parts), strict=True):
        assert torch.equal(a, b), name
