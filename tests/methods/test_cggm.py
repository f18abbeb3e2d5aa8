"""CGGM against a slow transcription (Guo et al., NeurIPS 2024)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods_toys import Seen, flat, mean, observe
from torch.nn import functional as F
from toys import SGD, differences

from asgml.methods.base import Step
from asgml.methods.cggm import CGGM, direction
from asgml.methods.joint import Joint


def accuracies(seen: Seen) -> dict[str, float]:
    out = {}
    for m, z in seen.unimodal.items():
        if seen.rows[m]:
            out[m] = mean([float(z[i].index(max(z[i])) == seen.y[i]) for i in seen.rows[m]])
    return out


def balances(history: list[dict[str, float]], rho: float) -> dict[str, float]:
    """B_m of the last step, from the accuracies of every step so far."""
    *past, now = history
    gain = {}
    for m in now:
        before = [e[m] for e in past if m in e]
        if before:
            gain[m] = max(now[m] - before[-1], 0.0)
    if len(gain) < 2:
        return {}
    total = sum(gain.values())
    if total == 0:
        return {m: rho * (len(gain) - 1) / len(gain) for m in gain}
    return {m: rho * sum(gain[k] for k in gain if k != m) / total for m in gain}


def reads(module: Any) -> dict[str, float]:
    return {k.rpartition("/")[2]: float(v) for k, v in module.step.reads.items() if k.startswith("cggm/balance/")}


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_balance_is_the_transcribed_one(modalities):
    _, capture = observe({"cggm": CGGM(rho=1.3)}, modalities, steps=6, epochs=2, more=reads, optimizer=SGD)
    history: list[dict[str, float]] = []
    found = []
    for seen in capture.seen:
        history.append(accuracies(seen))
        assert seen.more == pytest.approx(balances(history, 1.3), rel=1e-6, abs=1e-9)
        found += seen.more.values()
    assert capture.seen[0].more == {}
    assert min(found) == 0.0
    assert max(found) == pytest.approx(1.3)


def moment(seed: int = 0, missing: bool = True) -> tuple[Step, dict[str, torch.Tensor], torch.Tensor]:
    """A step of a linear fusion of two features, made by hand; the features and the fusion's weight are leaves."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (7,), generator=draw)
    here = torch.tensor([True, True, False, True, False, True, True])
    present = {"audio": None, "visual": here if missing else None}
    leaves = {m: torch.randn(7, 4, generator=draw, dtype=torch.float64).requires_grad_() for m in present}
    weight = torch.randn(3, 8, generator=draw, dtype=torch.float64).requires_grad_()
    heads = {m: torch.randn(3, 4, generator=draw, dtype=torch.float64) for m in present}
    mask = {"audio": torch.ones(7, dtype=torch.bool), "visual": here if missing else torch.ones(7, dtype=torch.bool)}
    f = {m: torch.where(mask[m][:, None], v, 0.0) for m, v in leaves.items()}

    def average(values: torch.Tensor, m: str | None) -> torch.Tensor:
        return values.mean() if m is None else values[mask[m]].mean()

    step = Step(
        y=y,
        present=present,
        features=f,
        logits=torch.cat(list(f.values()), 1) @ weight.T,
        unimodal={m: f[m].detach() @ heads[m].T for m in f},
        slices=lambda m: f[m],
        losses={m: torch.zeros(()) for m in f},
        mean=average,
        t=0,
        epoch=0,
        training=True,
    )
    step.extras["heads"] = heads
    return step, leaves, weight


def slow_cosine(step: Step, weight: torch.Tensor, m: str) -> torch.Tensor:
    """Of the gradients that autograd finds for the output layers, themselves with a graph."""
    logits = torch.cat(list(step.features.values()), 1) @ weight.T
    (whole,) = torch.autograd.grad(F.cross_entropy(logits, step.y), weight, create_graph=True)
    fused = whole[:, :4] if m == "audio" else whole[:, 4:]
    head = step.extras["heads"][m].clone().requires_grad_()
    rows = torch.ones(7, dtype=torch.bool) if step.present[m] is None else step.present[m]
    own = F.cross_entropy((step.features[m].detach() @ head.T)[rows], step.y[rows])
    (unimodal,) = torch.autograd.grad(own, head)
    return F.cosine_similarity(fused.flatten(), unimodal.flatten(), dim=0)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("m", ["audio", "visual"])
def test_the_direction_and_its_gradient_are_those_of_a_second_backward(m, missing):
    step, leaves, weight = moment(missing=missing)
    found, expected = direction(step, m), slow_cosine(step, weight, m)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    wrt = [*leaves.values(), weight]
    a, b = (torch.autograd.grad(x, wrt, retain_graph=True) for x in (found, expected))
    assert any(float(g.abs().max()) > 1e-3 for g in b)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-9)


def test_the_term_is_the_transcribed_one():
    step, _, weight = moment()
    method = CGGM(rho=1.3, weight=0.2)
    method.load_state({"last": {"audio": 0.0, "visual": 0.1}})
    found = float(method.loss(step)["direction"].detach())
    y = step.y.tolist()
    z = {m: v.tolist() for m, v in step.unimodal.items()}
    rows = {"audio": range(7), "visual": [0, 1, 3, 5, 6]}
    now = {m: mean([float(z[m][i].index(max(z[m][i])) == y[i]) for i in rows[m]]) for m in z}
    b = balances([method._last, now], 1.3)
    terms = [abs(b[m]) - b[m] * float(slow_cosine(step, weight, m).detach()) for m in b]
    assert found == pytest.approx(0.2 * mean(terms), rel=1e-6)


def test_the_encoders_gradient_is_scaled():
    """Without the direction term, at the second step; the fusion's stays."""
    runs = [observe({"x": x}, steps=2, optimizer=SGD, more=reads) for x in (Joint(), CGGM(weight=0.0))]
    (_, joint), (run, capture) = runs
    assert not differences(joint.gradients[0], capture.gradients[0])
    for m in run.module.modalities:
        b = capture.seen[1].more[m]
        assert flat(capture.gradients[1][m]) == pytest.approx([b * v for v in flat(joint.gradients[1][m])], rel=1e-6)
    assert not differences(joint.gradients[1]["fusion"], capture.gradients[1]["fusion"])
