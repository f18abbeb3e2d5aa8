"""No component draws from, or seeds, a global random generator, and none depends on its state."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from asgml_runs import config, write_features
from torch import Tensor, nn

from asgml.build import build_data, build_module
from asgml.methods.base import Step
from asgml.methods.ogm_ge import OGMGE
from callbacks.stages.frequency import Cadence
from callbacks.stages.probe import ProbeEMA, evaluating


def global_state() -> tuple[Any, ...]:
    """Return the state of the three global generators."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # type: ignore[misc]
    return torch.get_rng_state().tolist(), kind, keys.tolist(), rest, random.getstate()  # type: ignore[union-attr]


def seeded_state(seed: int) -> tuple[Any, ...]:
    """Seed the three global generators, and return their state."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    return global_state()


def probes() -> list[Tensor]:
    probe = ProbeEMA(classes=3, every=1, holdout="half", hidden=4, seed=5)
    generator = torch.Generator().manual_seed(1)
    f, y = torch.randn(8, 4, generator=generator), torch.arange(8) % 3
    for t in range(3):
        module = SimpleNamespace(probe_input=lambda: {"audio": (f, y)})
        probe.after_commit(SimpleNamespace(module=module, t=t + 1, metrics={}))  # type: ignore[arg-type]
    return [w.clone() for w in probe._heads.weights["audio"]]


def ogm_noise() -> list[Tensor]:
    method = OGMGE(kernels="all")
    method.prepare("ogm_ge", ["audio", "visual"], 3, seed=2)
    weights = {m: nn.Parameter(torch.zeros(3, 4)) for m in ("audio", "visual")}
    generator = torch.Generator().manual_seed(1)
    for w in weights.values():
        w.grad = torch.randn(3, 4, generator=generator)
    logits = {m: torch.randn(6, 3, generator=generator) for m in weights}
    step = Step(
        y=torch.arange(6) % 3,
        present=dict.fromkeys(weights),
        features={m: torch.zeros(6, 4) for m in weights},
        logits=logits["audio"],
        unimodal=logits,
        slices=logits.__getitem__,
        losses=dict.fromkeys(("fusion", *weights), torch.zeros(())),
        mean=lambda values, m: values.mean(),
        t=7,
        epoch=0,
        training=True,
    )
    assert method.on_gradients(step, {m: [w] for m, w in weights.items()}) == {"audio", "visual"}
    return [w.grad for w in weights.values() if w.grad is not None]


def random_skips() -> list[Tensor]:
    cadence = Cadence({"audio": 3, "visual": 2}, "random", {"audio": 0, "visual": 0}, seed=4)
    return [torch.tensor([m in cadence.due(t) for m in ("audio", "visual")]) for t in range(20)]


def held_out_evaluation() -> list[Tensor]:
    """Draw in evaluation mode, as a foreign encoder may."""
    with evaluating(nn.Identity()):
        torch.rand(3)
    return []


@pytest.mark.parametrize("component", [probes, ogm_noise, random_skips, held_out_evaluation])
def test_the_global_generators_are_left_alone_and_not_read(component: Callable[[], list[Tensor]]) -> None:
    found = []
    for seed in (1, 2):
        before = seeded_state(seed)
        found.append(component())
        assert global_state() == before
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_building_network_and_loaders_draws_nothing(tmp_path: Path) -> None:
    """The initial weights and the order of the data follow from the seed of the config alone."""
    write_features(tmp_path / "data.npz")
    cfg = config(tmp_path / "data.npz", tmp_path, "model.encoder.norm=batch")
    found = []
    for seed in (1, 2):
        before = seeded_state(seed)
        data = build_data(cfg)
        module, _ = build_module(cfg, data, None)
        order = [batch["index"] for batch in data.train_dataloader()] + [data.probe_batch(6)["index"]]
        assert global_state() == before
        found.append([*(p.detach() for p in module.parameters()), *order])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
