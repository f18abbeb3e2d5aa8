"""A prefix, and layers that read the same latents: each is what it is alone, and both are heard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import config
from lw_toys import EOS, tiny_lm
from torch import Tensor

from callbacks.errors import UserError
from latentwire.adapters.linear import LinearAdapter
from latentwire.adapters.mlp import MLPAdapter
from latentwire.injectors.base import Injector
from latentwire.injectors.combined import Combined
from latentwire.injectors.coprocessor import Coprocessor
from latentwire.injectors.deep_prefix import DeepPrefix
from latentwire.injectors.latent_adapters import LatentAdapters
from latentwire.injectors.sized_prefix import SizedPrefix
from latentwire.injectors.soft_prefix import SoftPrefix
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.train.beforehand import refuse
from latentwire.train.text_warm_up import among

TEXTS = ["Ada lives in Oslo.", "Ben likes plums."]
D_Z, M, B, WIDTH = 6, 4, 2, 12
QUESTIONS, ANSWERS = [[40, 41, 42], [50]], [[70, EOS], [80, 81, 82, EOS]]
SIZES: dict[str, Any] = {"width": WIDTH, "heads": 2, "gate": 0.5, "slots": 8}
INNER: dict[str, Callable[..., Injector]] = {
    "soft_prefix": SoftPrefix,
    "deep_prefix": partial(DeepPrefix, width=10),
    "sized_prefix": partial(SizedPrefix, width=8, length=3, heads=2),
    "longer sized_prefix": partial(SizedPrefix, width=8, length=7, heads=2),
    "coprocessor": partial(Coprocessor, hidden=5, gate=0.5),
}
every = pytest.mark.parametrize("inner", INNER)
LINE = ["injector=combined", "injector.heads=2"]


def latents(batch: int = B, slots: int = M) -> Tensor:
    return torch.randn(batch, slots, D_Z, generator=torch.Generator().manual_seed(1))


def combined(lm: FrozenLM, inner: str, texts: list[str] | None = None) -> Combined:
    torch.manual_seed(0)
    injector = Combined(D_Z, lm, TEXTS, MLPAdapter, INNER[inner], **SIZES).eval()
    injector.calibrate(latents(), texts)
    return injector


def scores(lm: FrozenLM, prefix: Prefix) -> Tensor:
    return lm.answer_logprobs(prefix, QUESTIONS, ANSWERS).scores


@every
@torch.no_grad()
def test_with_closed_gates_it_is_its_prefix_and_without_the_prefix_the_layers_alone(inner: str) -> None:
    lm, z = tiny_lm(), latents()
    injector = combined(lm, inner)
    both, prefix = scores(lm, injector(z)), injector.prefix(injector.adapter(z))
    torch.manual_seed(5)
    layers = LatentAdapters(D_Z, lm, None, MLPAdapter, **SIZES).eval()
    layers.load_state_dict({k: v for k, v in injector.state_dict().items() if not k.startswith("prefix.")})
    reads = replace(injector(z), embeds=None, kv=None)
    assert torch.equal(scores(lm, reads), scores(lm, layers(z)))
    assert (both - scores(lm, prefix)).abs().max() > 0.05
    assert (both - scores(lm, reads)).abs().max() > 0.05
    injector.gates.zero_()
    assert torch.equal(scores(lm, injector(z)), scores(lm, prefix))
    assert lm.generate(injector(z), QUESTIONS, 5) == lm.generate(prefix, QUESTIONS, 5)


@every
@torch.no_grad()
def test_it_generates_what_it_scores_read_once_or_not_and_a_batch_is_its_rows(inner: str) -> None:
    lm = tiny_lm("qwen2")
    prefix = combined(lm, inner)(latents())
    once = lm.cached(prefix)
    assert once.kv is not None
    assert once.reads is prefix.reads
    for read in (prefix, once):
        torch.testing.assert_close(scores(lm, read), scores(lm, prefix), rtol=0, atol=1e-4)
        found = lm.generate_scored(read, QUESTIONS, 5)
        for i, (tokens, logprobs) in enumerate(zip(found.tokens, found.logprobs, strict=True)):
            alone = lm.answer_logprobs(read.select([i]), [QUESTIONS[i]], [[*tokens, EOS]])
            told = torch.tensor(logprobs[: len(tokens)])
            torch.testing.assert_close(alone.logprobs[: len(tokens)], told, rtol=1e-4, atol=1e-4)
            assert lm.generate(read.select([i]), [QUESTIONS[i]], 5) == [tokens]


@torch.no_grad()
def test_embeddings_read_the_latents_too_in_their_own_columns() -> None:
    lm, z = tiny_lm(), latents()
    injector = combined(lm, "soft_prefix")
    prefix = injector(z)
    seen: list[Tensor] = []
    tap = lm.decoder.layers[1].register_forward_pre_hook(lambda m, i, k: seen.append(i[0]), with_kwargs=True)
    lm.cached(replace(prefix, reads=None))
    lm.cached(prefix)
    tap.remove()
    assert prefix.reads is not None
    torch.testing.assert_close(seen[-1], seen[-2] + prefix.reads[0].added(seen[-2]))


@every
def test_answers_teach_both_parts_and_the_adapter_that_they_share(inner: str) -> None:
    lm, z = tiny_lm(), latents().requires_grad_()
    injector = combined(lm, inner).train()
    lm.answer_logprobs(lm.cached(injector(z)), QUESTIONS, ANSWERS).nll().sum().backward()
    assert not [name for name, p in injector.named_parameters() if p.grad is None or not p.grad.any()]
    assert z.grad is not None
    assert bool(z.grad.any(2).all())


def test_layers_that_are_computed_again_leave_gradients_as_they_are() -> None:
    lm, found = tiny_lm(), []
    injector = combined(lm, "soft_prefix")
    for again in (False, True):
        lm.checkpointing = again
        z = latents().requires_grad_()
        lm.answer_logprobs(lm.cached(injector(z)), QUESTIONS, ANSWERS).nll().sum().backward()
        found.append(z.grad)
    assert found[0] is not None
    assert torch.equal(found[0], found[1])


@every
def test_places_are_those_of_the_prefix_and_never_fewer_than_slots(inner: str) -> None:
    injector = combined(tiny_lm(), inner)
    taken = {"sized_prefix": 3, "longer sized_prefix": 7}.get(inner, M)
    assert injector.columns(M) == taken
    assert injector.positions(M) == max(M, taken) == injector(latents()).latents
    assert injector.first_state == 1
    assert injector.last_state == 2
    sizes = injector.text_rms()
    assert set(sizes) == {*injector.prefix.text_rms(), "reads"}


@every
@torch.no_grad()
def test_it_starts_as_its_prefix_from_the_text_and_a_state_of_distinct_tensors_brings_all(inner: str) -> None:
    lm, z = tiny_lm(), latents()
    injector = combined(lm, inner, TEXTS)
    state = injector.state_dict()
    assert len({t.data_ptr() for t in state.values()}) == len(state), "stored twice"
    torch.manual_seed(5)
    other = Combined(D_Z, lm, None, MLPAdapter, INNER[inner], **SIZES).eval()
    with pytest.raises(RuntimeError, match="not calibrated"):
        other(z)
    other.load_state_dict(state)
    assert torch.equal(scores(lm, other(z)), scores(lm, injector(z)))
    twin: Any = INNER[inner](d_z=WIDTH, lm=lm, texts=TEXTS, adapter=LinearAdapter).eval()
    twin.load_state_dict({k.removeprefix("prefix."): v for k, v in state.items() if k.startswith("prefix.")})
    twin.calibrate(injector.adapter(z), TEXTS)
    for name, x in twin.state_dict().items():
        torch.testing.assert_close(x, state[f"prefix.{name}"], rtol=1e-3, atol=1e-3, msg=name)


@every
@torch.no_grad()
def test_a_refit_starts_prefix_and_layers_anew_and_leaves_the_adapter(inner: str) -> None:
    lm, z = tiny_lm(), latents()
    injector = combined(lm, inner, TEXTS)
    before = {name: x.clone() for name, x in injector.state_dict().items()}
    for name, p in injector.named_parameters():
        if name.startswith("adapter."):
            p.mul_(1.5)
    moved = {name: x.clone() for name, x in injector.state_dict().items() if name.startswith("adapter.")}
    injector.refit(z, TEXTS)
    after = injector.state_dict()
    assert all(torch.equal(after[name], x) for name, x in moved.items())
    assert not torch.equal(after["rms"], before["rms"])
    assert not torch.equal(after["prefix.adapter.calibration.measured"], before["prefix.adapter.calibration.measured"])


@every
@torch.no_grad()
def test_text_takes_places_of_the_prefix_and_layers_go_on_reading_latents(inner: str) -> None:
    lm, z = tiny_lm(), latents()
    injector = combined(lm, inner)
    assert injector.reads_text
    ids = torch.tensor([lm.style.encode(text)[:8] for text in TEXTS])
    text = injector.text_prefix(ids, torch.ones_like(ids, dtype=torch.bool), [M])
    own = injector(z)
    mixed = among(own, text, torch.ones(B, text.latents, dtype=torch.bool))
    assert mixed.reads is own.reads
    torch.testing.assert_close(scores(lm, replace(mixed, reads=None)), scores(lm, text))


def test_what_makes_no_prefix_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    for wrong in ("latent_adapters", "combined"):
        with pytest.raises(UserError, match="which makes no prefix") as told:
            refuse(config(tmp_path, *LINE, f"injector@injector.prefix={wrong}"))
        assert told.value.where == "injector.prefix"
        assert told.value.remedy == "set injector@injector.prefix=deep_prefix"
        refuse(config(tmp_path, *LINE, *told.value.remedy.split()[1:]))
    with pytest.raises(UserError, match=r"injector\.prefix"):
        Combined(D_Z, tiny_lm(), TEXTS, MLPAdapter, partial(LatentAdapters, width=8, heads=2), **SIZES)
