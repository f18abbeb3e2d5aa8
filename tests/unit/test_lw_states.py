"""Regression of a reader's own states, and a later reader's adapter that mixes slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import config, prepare

from callbacks.errors import UserError
from latentwire.injectors.fitting import pooled_kv
from latentwire.lm.layout import right_padded
from latentwire.objectives.states import explained


def test_states_of_a_batch_are_those_of_its_texts_alone(tmp_path: Path) -> None:
    parts = prepare(config(tmp_path, "wire.slots=8", "wire.private={tiny_llama:3}"))
    injector: Any = parts.module.wire.injectors["tiny_llama"]
    lm = injector.lm
    texts = [parts.module.texts[0], parts.module.texts[1][:40], "Anna."]
    found = injector.text_states(*right_padded(lm.style.encode_all(texts)), (5, 3))
    mean, std = (x.flatten(1)[:, None] for x in (injector.mean, injector.std.clamp(min=1e-6)))
    for number, text in enumerate(texts):
        alone = (pooled_kv(lm, injector.placement, text, (5, 3)) - mean) / std
        torch.testing.assert_close(found[:, number], alone, rtol=1e-4, atol=1e-4)


def test_states_are_what_the_prefix_holds(tmp_path: Path) -> None:
    """Keys before positions and values, in units of text."""
    module = prepare(config(tmp_path, "wire.slots=8")).module
    injector: Any = module.wire.injectors["tiny_llama"]
    z = module.wire.eval().encode(module.texts[:3])
    made, kv = injector.states(z), injector(z).kv
    heads, width = injector.lm.kv_shape
    values = made.unflatten(-1, (2, heads, width))[:, :, :, 1].transpose(2, 3)  # (layers, B, heads, M, width)
    mean, std = injector.mean[:, 1, None, :, None], injector.std[:, 1, None, :, None]
    torch.testing.assert_close(mean + std * values, torch.stack([v for _, v in kv]), rtol=1e-4, atol=1e-5)


def test_the_share_explained_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    target, predicted = torch.randn(2, 7, 3), torch.randn(2, 7, 3)
    shares = []
    for y, x in zip(target, predicted, strict=True):
        mean = [sum(float(row[c]) for row in y) / 7 for c in range(3)]
        left = sum(float(y[n, c] - x[n, c]) ** 2 for n in range(7) for c in range(3))
        there = sum((float(y[n, c]) - mean[c]) ** 2 for n in range(7) for c in range(3))
        shares.append(1 - left / there)
    assert float(explained(predicted, target)) == pytest.approx(sum(shares) / 2, abs=1e-5)
    assert float(explained(target, target)) == 1


def test_a_reader_of_embeddings_is_refused_with_another_objective(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"objective=\[answer_ce,embedding_reconstruction"):
        prepare(config(tmp_path, "objective=[answer_ce,state_regression]", "injector=soft_prefix", "wire.slots=5"))


def test_states_are_learned_without_a_question(tmp_path: Path) -> None:
    parts = prepare(config(tmp_path, "curriculum=states_first", "adapter=refiner", "wire.slots=5"))
    module: Any = parts.module.eval()
    batch = parts.train.dataset.__getitems__([(0, 0), (1, 0), (2, 0)])  # type: ignore[attr-defined]
    batch.rows.clear()
    objective = module.objectives["state_regression"]
    optimizer = torch.optim.Adam(module.wire.injectors["tiny_llama"].parameters(), 1e-3)
    shares = []
    for _ in range(15):
        _, found = module.objective_outputs(batch, {"state_regression": objective})
        output = found["tiny_llama"]["state_regression"]
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        shares.append(float(output.observed["explained"]))
    assert shares[-1] > shares[0] + 0.1


def test_the_refiner_mixes_slots_and_starts_close_to_its_linear_map(tmp_path: Path) -> None:
    module: Any = prepare(config(tmp_path, "adapter=refiner", "wire.slots=5")).module
    adapter = module.wire.injectors["tiny_llama"].adapter.eval()
    z = torch.randn(2, 5, adapter.d_z)
    plain, refined = adapter.linear(z), adapter.raw(z)
    assert (refined - plain).norm() < 0.2 * plain.norm()
    moved = z.clone()
    moved[:, 0] += 1
    assert not torch.allclose(adapter.raw(moved)[:, 1:], refined[:, 1:], atol=1e-6)
